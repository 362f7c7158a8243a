"""What does a network look at while it learns? A training loop that keeps a guided map of every epoch.

    python examples/training_loop.py

The task is made up: is there a plus or a cross somewhere in the noise? `explain` leaves the net in training mode, with
its gradients, as it found it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attribkit

PLUS = torch.tensor([[0.0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]])
CROSS = torch.tensor([[1.0, 0, 0, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 1]])


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Noise with a sign in it, and which sign it is."""
    labels = torch.randint(2, (count,))
    images = torch.rand(count, 1, 24, 24) * 0.4
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(2, 17, (2,)).tolist()
        image[0, row : row + 5, column : column + 5] += (PLUS, CROSS)[label]
    return images, labels


torch.manual_seed(0)
net = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
    *(nn.Conv2d(32, 2, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
)
optimiser = torch.optim.Adam(net.parameters(), lr=0.003)
watched = pictures(1)[0]

for epoch in range(1, 6):
    net.train()
    for _ in range(20):
        images, labels = pictures(64)
        loss = F.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    attribution = attribkit.explain(net, watched, "guided")
    attribution.save(f"attribkit-out/epoch-{epoch}.png")
    print(f"epoch {epoch}: loss {loss:.3f}, {attribution}")
