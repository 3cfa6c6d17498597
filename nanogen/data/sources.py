"""The URLs of the named data sets, and the checksums of their files, uncompressed.

- MNIST (LeCun, Cortes & Burges): SHA-256, as listed in many places.
- Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): SHA-256, computed from Debian's package `dataset-fashion-mnist`, whose
  archives differ from the original ones.
- CIFAR-10 (Krizhevsky 2009): MD5 of the files in the archive, and SHA-256 of the archive, as listed by TensorFlow
  Datasets and others.
"""

from __future__ import annotations

from nanogen.data.download import Archive, File, cached

__all__ = ["SOURCES", "cached"]


def _idx(base: str, checksums: dict[str, str]) -> tuple[Archive, ...]:
    sizes = {"train-images-idx3": 47040016, "train-labels-idx1": 60008, "t10k-images-idx3": 7840016,
             "t10k-labels-idx1": 10008}  # fmt: skip
    return tuple(
        Archive(f"{base}/{name}-ubyte.gz", (File(f"{name}-ubyte", sizes[name], f"sha256:{checksum}"),))
        for name, checksum in checksums.items()
    )


SOURCES: dict[str, tuple[Archive, ...]] = {
    "mnist": _idx("https://ossci-datasets.s3.amazonaws.com/mnist", {
        "train-images-idx3": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }),
    "fashion-mnist": _idx("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", {
        "train-images-idx3": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }),
    "cifar10": (
        Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", tuple(
            File(name, 30730000, f"md5:{checksum}") for name, checksum in {
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
            }.items()
        ), "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    ),
}  # fmt: skip
