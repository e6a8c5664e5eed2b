"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), in the same files as MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.data.dataset import Dataset
from fedsim.data.files import find_files
from fedsim.data.images import Scale, idx_examples
from fedsim.data.mnist import FILES
from fedsim.data.published import Published, remotes
from fedsim.settings import section

SCALE = Scale((0.2860,), (0.3530,))
NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
IMAGES = remotes(
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    {
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


@section
@dataclass(frozen=True)
class FashionMnist:
    """60,000 + 10,000 pictures of ten kinds of clothing, 28x28."""

    source: Literal["fashion_mnist"] = "fashion_mnist"
    path: str | None = None
    published: ClassVar[Published] = Published("github.com/zalandoresearch/fashion-mnist", IMAGES)

    def load(self, seed: int) -> Dataset:
        """Images ``[n, 1, 28, 28]`` scaled by public constants, in the published split (the seed is not used)."""
        files = find_files(self.source, self.path, FILES, self.published)
        train, test = (
            idx_examples(f"fashion-{files[i].name.split('-')[0]}", files[i], files[i + 1], SCALE) for i in (0, 2)
        )
        return Dataset(train, test, NAMES)
