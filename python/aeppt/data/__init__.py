"""Data sets, their division into members and others, and files of predictions."""

from aeppt.data.baskets import synthetic_baskets
from aeppt.data.cifar import load_cifar10, load_cifar100
from aeppt.data.digits import load_digits
from aeppt.data.feature_tables import load_table
from aeppt.data.folders import load_image_folder
from aeppt.data.location import load_location
from aeppt.data.mnist import load_fashion_mnist, load_mnist
from aeppt.data.purchase import load_purchase100
from aeppt.data.records import Records, Split, join_records, split_records
from aeppt.data.texas import load_texas100
from aeppt.data.tiny_imagenet import load_tiny_imagenet

__all__ = [
    "Records",
    "Split",
    "join_records",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_location",
    "load_mnist",
    "load_purchase100",
    "load_table",
    "load_texas100",
    "load_tiny_imagenet",
    "split_records",
    "synthetic_baskets",
]
