"""Small checkpoints and adapters of plain tensors, as places that a task can name."""

from safetensors.torch import save_file

from engine.format.files.header import read_header
from engine.materialize.stored.place import Place, plain


def saved(file, tensors):
    """The places of `tensors` in a new safetensors file."""
    save_file(tensors, file, metadata={"format": "pt"})
    return places(file)


def places(file):
    """Where the tensors of a safetensors file lie."""
    header = read_header(file)
    return {
        name: Place(file, header.data_offset + info.start, info.dtype, info.shape)
        for name, info in header.tensors.items()
    }


def room(file, dtype, shape):
    """A plain weight in a new file that has just its size."""
    place = Place(file, 0, dtype, shape)
    file.write_bytes(bytes(place.size))
    return plain(place)
