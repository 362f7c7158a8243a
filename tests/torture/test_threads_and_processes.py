"""Threads, processes and event loops each get what one alone gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from oracles import state_digest
from torch import Tensor, nn
from torture import Tried, times

import attribkit

RULES = ["backprop", "deconvnet", "guided"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        return self.head(torch.relu(self.conv2(x)).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def image(number: int) -> Tensor:
    return torch.randn(1, 3, 10, 10, generator=torch.Generator().manual_seed(number))


def explained(model: nn.Module, number: int) -> Tensor:
    return attribkit.explain(model, image(number), method=RULES[number % 3], target=number % 2).values


def of_a_new_process(number: int) -> Tensor:
    torch.set_num_threads(1)
    return explained(net(), number).clone()


class Explained(torch.utils.data.Dataset[Tensor]):
    """Images that are explained where they are loaded."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> Tensor:
        return of_a_new_process(number)[0]


def test_sixteen_threads_on_one_model(tried: Tried) -> None:
    """Exactly what one thread gets, whatever the others ask meanwhile."""
    model, each = net(), times(500)
    expected = [explained(model, number) for number in range(12)]
    before, together = state_digest(model), threading.Barrier(16)

    def many(first: int) -> int:
        together.wait()
        return sum(torch.equal(explained(model, (first + k) % 12), expected[(first + k) % 12]) for k in range(3 * each))

    with ThreadPoolExecutor(16) as pool:
        right = sum(pool.map(many, range(16)))
    assert right == 16 * 3 * each
    assert state_digest(model) == before
    tried("maps of three rules in 16 threads on one model, bit for bit", right)


class Repeating(Net):
    """Whose second convolution is used again and again: a map during which it changes would mix two networks.

    Its four weights are written at once. Of more, a thread may be halted half way through: a state of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(4, 4, 1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        for _ in range(8):
            x = torch.relu(self.conv2(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_step_of_training_while_a_map_is_made(name: str, tried: Tried) -> None:
    """Each map belongs to the weights of one moment, or is refused."""
    torch.manual_seed(0)
    model = Repeating()
    weight, expected = model.conv2.get_parameter(name), []
    states = [weight.detach().clone(), weight.detach() * 1.5]
    for state in states:
        weight.data.copy_(state)
        expected += [[explained(model, number) for number in range(3)]]
    training, over = threading.Event(), threading.Event()

    def train() -> None:
        while not over.is_set():
            training.wait()
            with torch.no_grad():
                for state in states:
                    weight.copy_(state)

    trainer = threading.Thread(target=train)
    trainer.start()
    right = refused = 0
    try:
        for number in range(times(1500)):
            (training.set if number % 2 else training.clear)()
            try:
                values = explained(model, number % 3)
            except attribkit.errors.ModelChanged:
                refused += 1
            else:
                right += any(torch.equal(values, maps[number % 3]) for maps in expected)
    finally:
        over.set()
        training.set()
        trainer.join()
    assert right + refused == times(1500)
    assert min(right, refused) > 0
    tried("maps while another thread writes weights: of one state", right)
    tried("maps while another thread writes weights: refused", refused)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_other_processes(start: str, tried: Tried) -> None:
    expected = [explained(net(), number) for number in range(6)]
    with ProcessPoolExecutor(2, get_context(start)) as pool:
        found = list(pool.map(of_a_new_process, range(6)))
    assert all(map(torch.equal, found, expected))
    tried("maps in processes of spawn and forkserver", len(found))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_data_loader(tried: Tried) -> None:
    loader = torch.utils.data.DataLoader(Explained(), batch_size=1, num_workers=2, multiprocessing_context="fork")
    found = list(loader)
    assert all(torch.equal(batch[0], explained(net(), number)[0]) for number, batch in enumerate(found))
    tried("maps in a DataLoader's workers (fork)", len(found))


def test_an_event_loop(tried: Tried) -> None:
    model = net()
    expected = [explained(model, number) for number in range(12)]
    asked: Callable[[int], Tensor] = lambda number: explained(model, number)  # noqa: E731

    async def all_at_once() -> list[Tensor]:
        return list(await asyncio.gather(*(asyncio.to_thread(asked, n % 12) for n in range(times(1000)))))

    found = asyncio.run(all_at_once())
    assert all(torch.equal(each, expected[n % 12]) for n, each in enumerate(found))
    tried("maps asked for by an event loop", len(found))
