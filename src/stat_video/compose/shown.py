"""What `--help`, `--cfg` and `--info` print."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.default_element import GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import InputError
from ..flags import Flags
from ..paths import CONF, as_run_here, own_conf
from .composed import Row, compose_words, for_hydra
from .grammar import Grammar
from .local import groups, groups_of
from .wrong import one_line


def help_text(script: str) -> str:
    """Return the head of conf/<script>.yaml, and the groups with their choices."""
    lines = (CONF / f"{script}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("# ") for line in lines[: next(i for i, ln in enumerate(lines) if ln[:1] != "#")]]
    chosen = hydra_compose(script, return_hydra_config=True).hydra.runtime.choices
    listed = [f"  {group}: {', '.join(groups_of(group))}" for group in groups() if group in chosen]
    return as_run_here("\n".join([*head, *(["", "groups (GROUP=CHOICE):", *listed] if listed else [])]))


def shown(grammar: Grammar, row: Row, settings: Sequence[str], flags: Flags) -> str:
    """Return what `--cfg` or `--info` prints of a row; ``settings`` are the words of Hydra's own."""
    if "--info" in flags.values:
        return _info(grammar, [*row.words, *settings], flags.values["--info"])
    what = flags.values["--cfg"]
    config: Any = OmegaConf.structured(row.config)  # resolved and checked
    if what != "job":
        hydra = _of_hydra(compose_words(grammar, [*row.words, *settings]), "--resolve" in flags.given)
        config = OmegaConf.create({"hydra": hydra} | (_plain(config) if what == "all" else {}))
    package = flags.values.get("--package", "_global_")
    if package == "_global_":
        return OmegaConf.to_yaml(config)
    try:
        part = OmegaConf.select(config, grammar.full(package), throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise InputError(f"--package {package}: {one_line(error)}") from None
    if part is None:
        raise InputError(f"--package {package}: there is none; must be one of {', '.join(map(str, config))}, or in one")
    return f"# @package {package}\n{OmegaConf.to_yaml(part)}" if OmegaConf.is_config(part) else f"{part}\n"


def _of_hydra(composed: DictConfig, resolve: bool) -> dict[str, Any]:
    """Return Hydra's own part of a config as plain containers, without its texts for --help."""
    found = {str(key): value for key, value in _plain(composed.hydra).items() if key not in ("help", "hydra_help")}
    for key in list(found) if resolve else ():
        with suppress(OmegaConfBaseException):  # it names what hydra.main alone sets, such as the folder of a job
            if OmegaConf.is_config(part := composed.hydra[key]):
                found[key] = OmegaConf.to_container(part, resolve=True)
    return found


def _info(grammar: Grammar, words: Sequence[str], what: str) -> str:
    loader = GlobalHydra.instance().config_loader()
    if what == "searchpath":
        own = [("yours", str(folder)) for folder in own_conf()]
        ours = [(str(path.provider), str(path.path)) for path in loader.get_search_path().get_path()]
        last = len(ours) - (ours[-1][0] == "schema")
        return _table([("whose", "folder"), *ours[:last], *own, *ours[last:]])
    defaults = loader.compute_defaults_list(grammar.conf, for_hydra(grammar, words), RunMode.RUN)
    if what == "defaults-tree":
        return "\n".join(_tree(defaults.defaults_tree))
    listed = [(d.config_path, d.package, "yes" if d.is_self else "", d.parent) for d in defaults.defaults]
    return _table([("file", "package", "_self_", "named by"), *listed])


def _plain(config: Any) -> dict[str, Any]:
    return dict(OmegaConf.to_container(config))  # type: ignore[arg-type]


def _table(rows: Sequence[Sequence[Any]]) -> str:
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(" | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _tree(tree: Any, indent: int = 0) -> list[str]:
    node, children = getattr(tree, "node", tree), getattr(tree, "children", None) or []
    group = isinstance(node, GroupDefault)
    name = f"{node.get_override_key()}: {node.get_name() or 'null'}" if group else str(node.get_config_path())
    return ["  " * indent + name, *(line for child in children for line in _tree(child, indent + 1))]
