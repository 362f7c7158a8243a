"""A real browser, and pages in it that have to be quiet and ask for nothing."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    # Chromium refuses its sandbox to root, which is who runs in a container.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, file):
    """Open a module's `file` in a window of one's own; at the end it has been quiet and has asked for nothing."""
    contexts, problems = [], []

    def watch(tab):
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        outside = ("data:", file.as_uri())
        tab.on("request", lambda request: request.url.startswith(outside) or problems.append(request.url))

    def open_page(width=1200, height=900, script=None, ready=True, fragment="", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        tab = context.new_page()
        tab.set_default_timeout(15_000)
        watch(tab)
        tab.goto(file.as_uri() + fragment)
        if ready:
            tab.wait_for_selector("html[data-ready]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
