"""Small images for training: digits, MNIST, Fashion-MNIST and CIFAR-10, read from local files.

`load` returns an `ImageData`; `batches` yields the shuffled and augmented batches of one epoch.
The readers of single file formats (IDX, npz, the binary version of CIFAR-10, folders of pictures)
return NumPy arrays. Nothing is downloaded.
"""

from fgsgd_jax.experiments.data._batches import batches as batches
from fgsgd_jax.experiments.data._batches import mirrored as mirrored
from fgsgd_jax.experiments.data._batches import shifted as shifted
from fgsgd_jax.experiments.data._cifar import CIFAR_RECORD as CIFAR_RECORD
from fgsgd_jax.experiments.data._cifar import CIFAR_TEST_NAME as CIFAR_TEST_NAME
from fgsgd_jax.experiments.data._cifar import CIFAR_TRAIN_NAMES as CIFAR_TRAIN_NAMES
from fgsgd_jax.experiments.data._cifar import read_cifar_binary as read_cifar_binary
from fgsgd_jax.experiments.data._idx import IDX_NAMES as IDX_NAMES
from fgsgd_jax.experiments.data._idx import read_idx as read_idx
from fgsgd_jax.experiments.data._idx import read_idx_folder as read_idx_folder
from fgsgd_jax.experiments.data._images import NAMES as NAMES
from fgsgd_jax.experiments.data._images import ImageData as ImageData
from fgsgd_jax.experiments.data._images import Name as Name
from fgsgd_jax.experiments.data._load import load as load
from fgsgd_jax.experiments.data._load import require_folder as require_folder
from fgsgd_jax.experiments.data._npz import NPZ_KEYS as NPZ_KEYS
from fgsgd_jax.experiments.data._npz import read_npz as read_npz
from fgsgd_jax.experiments.data._pictures import read_picture_folder as read_picture_folder
from fgsgd_jax.experiments.data._split import stratified_order as stratified_order
