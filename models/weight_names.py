"""Names of tensors in a weight file and in a model, matched where a wrapper's prefix or the head's name differs."""

from collections import Counter
from collections.abc import Mapping

from helper_functions.errors import UserError
from models.weight_files import shown

Shapes = Mapping[str, tuple[int, ...]]
# Parts of a name, from its beginning, that may be a prefix.
DEEPEST = 6
# Names that a line shows.
SHOWN = 3


def match_names(
    own: Shapes, given: Shapes, head: str | None, saved: Mapping[str, str], source: object
) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """The file's name by the model's own, in the file's order; what was matched, in words; names that are left out.

    A prefix before all of the model's names is removed, such as `model.` or `backbone.`; what lies outside of it is
    left out if nothing is missing. A head under another name is found by its shapes. Names that fit nothing stay as
    they are, for the error.

    Args:
        own: shapes of the model's tensors.
        given: shapes of the file's.
        head: path of the model's head, if any.
        saved: the model's names by those in another kind of file.
        source: the file, for errors.

    Raises:
        UserError: two prefixes, or two heads, fit.
    """
    if own.keys() == given.keys():
        return {name: name for name in given}, "", ()
    # max takes the first of two equal ones: the model's own names.
    kinds = ({name: name for name in own}, saved)
    known, (prefix, _) = max(((names, _prefix(names, given, source)) for names in kinds), key=lambda kind: kind[1][1])
    bare = {name: name.removeprefix(prefix) for name in given if name.startswith(prefix)}
    found = {theirs: known[name] for theirs, name in bare.items() if name in known}
    said = [f"names without {shown(prefix)!r}"] if prefix else []
    have = set(found.values())
    missing = [name for name in own if name not in have and not name.endswith("num_batches_tracked")]
    rest = {name: shape for name, shape in given.items() if name not in found}
    if missing and all(name.rpartition(".")[0] == head for name in missing):
        theirs = _head({name: own[name] for name in missing}, rest, source)
        if theirs is not None:
            found |= {_under(theirs, name): name for name in missing}
            rest = {name: shape for name, shape in rest.items() if name not in found}
            said.append(f"head {head} from {shown(theirs)}")
            missing = []
    left_out = {} if missing or not prefix else {name: None for name in rest if name not in bare}
    if left_out:
        more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
        said.append(f"without {', '.join(map(shown, list(left_out)[:SHOWN]))}{more}")
    if double := [name for name in rest if name in have and name not in left_out]:
        raise UserError(f"{source} holds {shown(double[0])} twice, under two names: save one model")
    return {found.get(name, name): name for name in given if name not in left_out}, ", ".join(said), tuple(left_out)


def _prefix(known: Mapping[str, str], given: Shapes, source: object) -> tuple[str, int]:
    """The prefix without which most names of the file are known, and how many they are."""
    counts: Counter[str] = Counter({"": 0})
    for name in given:
        parts = name.split(".", DEEPEST)
        for depth in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:depth])
            counts[prefix] += name[len(prefix) :] in known
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    if "" in best or 2 * most < len(known):
        return "", counts[""]
    if len(best) > 1:
        both = " and ".join(repr(shown(prefix)) for prefix in best[:2])
        raise UserError(f"{source} holds two models, under {both}: save one of them")
    return best[0], most


def _head(missing: Shapes, rest: Shapes, source: object) -> str | None:
    """The layer among the file's other tensors that has the shapes of the head."""
    fitting = [
        layer for layer in dict.fromkeys(name.rpartition(".")[0] for name in rest)
        if all(rest.get(_under(layer, name)) == shape for name, shape in missing.items())
    ]  # fmt: skip
    if len(fitting) > 1:
        raise UserError(f"{source}: both {' and '.join(map(shown, fitting[:2]))} could be the head: save one of them")
    return fitting[0] if fitting else None


def _under(layer: str, name: str) -> str:
    return f"{layer}.{name.rpartition('.')[2]}".lstrip(".")
