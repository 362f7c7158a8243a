"""What becomes of many images: explained now or by an earlier run, or why not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attribkit.cli.done import Done

if TYPE_CHECKING:
    from torch import Tensor

    from attribkit.cli.answers import Answer, Respondent
    from attribkit.cli.pictures import GivenImage
    from attribkit.cli.results import Files


@dataclass
class Outcomes:
    """Images in their order, each explained once; a second run does only what is missing.

    Images are taken by groups, which follow from the order alone: a batch never crosses two groups, and so an image
    gets the same bytes in whichever run it is explained.
    """

    pictures: Sequence[GivenImage]
    respondent: Respondent
    files: Files
    by_image: dict[GivenImage, Done] = field(default_factory=dict)
    failed: dict[GivenImage, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        """For each image that can be explained, what is said of it.

        A thread writes files while the network works on further images; one thread, so that in whichever run a name is
        taken by the same image. What has been explained gets written, whatever stops the rest.
        """
        writing: deque[tuple[GivenImage, float, Future[Done]]] = deque()
        pool = ThreadPoolExecutor(max_workers=1)
        try:
            for start in range(0, len(self.pictures), self.respondent.IMAGES):
                group = self.pictures[start : start + self.respondent.IMAGES]
                contents = self._contents(group)
                keys = {source: self.files.key(source, content) for source, content in contents.items()}
                yield from self._kept(keys)
                for answers in self._missing(contents):
                    source = answers[0].source
                    seconds = sum(answer.seconds for answer in answers)
                    writing.append((source, seconds, pool.submit(self.files.add, keys[source], answers)))
                    del answers  # or the last one would stay until the next is there
                    while len(writing) > self.respondent.IMAGES or (writing and writing[0][2].done()):
                        yield self._written(*writing.popleft())
            while writing:
                yield self._written(*writing.popleft())
        finally:
            pool.shutdown()
            self.by_image |= {source: made.result() for source, _, made in writing if made.exception() is None}

    def _kept(self, keys: dict[GivenImage, str]) -> Iterator[str]:
        """The images that an earlier run has explained."""
        for source, key in keys.items():
            if (found := self.files.find(key)) is not None:
                self.by_image[source] = found
                yield self._words(source, "done before")

    def _missing(self, contents: dict[GivenImage, bytes]) -> Iterator[list[Answer]]:
        """Answers for the other images of a group, computed with the whole group."""
        if all(source in self.by_image for source in contents):
            return
        inputs = self._inputs(contents)
        if all(source in self.by_image for source in inputs):
            return
        for answers in self.respondent.answers(list(inputs.items())):
            if answers[0].source not in self.by_image:
                yield answers

    def _written(self, source: GivenImage, seconds: float, made: Future[Done]) -> str:
        self.by_image[source] = made.result()
        return self._words(source, f"{seconds:.1f} s")

    def _contents(self, group: Sequence[GivenImage]) -> dict[GivenImage, bytes]:
        from attribkit.adapters.images import ImageError

        contents = {}
        for source in group:
            try:
                contents[source] = source.content()
            except ImageError as error:
                self.failed[source] = str(error)
        return contents

    def _inputs(self, contents: dict[GivenImage, bytes]) -> dict[GivenImage, Tensor]:
        """The network's inputs, of all that can be decoded."""
        from attribkit.adapters.images import ImageError

        inputs = {}
        for source, content in contents.items():
            try:
                inputs[source] = self.respondent.input(source.decoded(content))
            except ImageError as error:
                self.failed[source] = str(error)
        return inputs

    def _words(self, source: GivenImage, how: str) -> str:
        done = self.by_image[source]
        return "\n".join([*done.words, f"  {how}  {' '.join(done.files)}".rstrip()])

    @property
    def made(self) -> list[Done]:
        """What was explained, in the order of the images."""
        return [self.by_image[source] for source in self.pictures if source in self.by_image]

    @property
    def cautions(self) -> list[str]:
        """Each is said once, not for every image."""
        return list(dict.fromkeys(line for done in self.made for line in done.cautions))

    @property
    def complete(self) -> str:
        return f"{len(self.by_image)} of {len(self.pictures)} images are complete, in {self.files.out}"

    @property
    def failures(self) -> str:
        """How many images failed, and why each."""
        why = "; ".join(self.failed.values())
        if len(self.pictures) == 1:
            return why
        count = "all" if len(self.failed) == len(self.pictures) else f"{len(self.failed)} of"
        return f"{count} {len(self.pictures)} images failed: {why}"

    def document(self, pages: list[str], stopped: bool) -> dict[str, Any]:
        """All of it for a machine. What is said of sites stands once, and answers have its number."""
        sites: list[Any] = []
        explained = []
        for answer in (answer for done in self.made for answer in done.explained):
            for found in answer["sites"].values():
                if found not in sites:
                    sites.append(found)
            explained.append(answer | {"sites": {name: sites.index(found) for name, found in answer["sites"].items()}})
        return {
            "model": self.respondent.loaded.name,
            "sites": sites,
            "explained": explained,
            "failed": [{"image": source.path, "error": self.failed[source]} for source in self.failed],
            "pages": pages,
            "stopped": stopped,
        }
