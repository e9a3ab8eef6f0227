"""Verification of a report: its digests and figures recomputed from saved weights and splits, its page rendered again.

It detects damage and accidental changes. Someone who forges a whole run folder can recompute its digests; a signature,
or a copy of the report's digest out of their reach, detects that. A page from another version of the code, of
matplotlib or of Jinja may have other bits: it is not compared, but its digest in report.json is.
"""

import base64
import dataclasses
import functools
import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from data.preprocessing import refuse_unnamed_transform
from evaluation.gaps import summarise_gaps
from evaluation.report.page import CARD, PAGE, PICTURE, generator, model_card, report_page
from evaluation.report.record import CARD_DIGEST, DIGEST, PAGE_DIGEST, SCHEMA_VERSION, file_digest, report_digest
from evaluation.report.requesters import requester_page
from evaluation.report.tables import plain
from evaluation.verify.checks import ROUNDING, Check, all_near, at, exact
from evaluation.verify.figures import Recorded, check_figures, check_files
from helper_functions.code_version import code_version
from helper_functions.config import ScriptParser
from helper_functions.errors import UserError
from helper_functions.files import check_folder, load_config
from helper_functions.training.distribution import world_size
from models.sources import refuse_unnamed_code
from unlearning.methods.own import is_own, with_flags

NEEDED = ("report.json", "config.yaml", "splits.npz")
# Flags of test.py that give the present places of data, models and code, and the device.
MOVED = ("data_dir", "model", "device", "original_weight_path", "retrained_weight_path", "transform")
SUMMARIES = ("avg_gap", "avg_gap_salun", "tug_of_war", "retrained_models", "noise_floor", "bands", "inside")
STATED = "times, costs, code version, hardware and the budget of earlier requests are not verified"


def verify_run(args: Any, scripts: Mapping[str, ModuleType]) -> dict:
    """Check the run folder `args.verify`; print a line for each check and the conclusion.

    `args` are flags of test.py, of which those of `MOVED` replace the recorded ones; `scripts` write such folders, by
    name. Returns `holds`, and the `checks` as dicts. Raises UserError where it cannot be checked: no run folder, other
    flags, data or weights that are missing.
    """
    folder = Path(args.verify)
    _refuse(args, folder)
    report = _read_report(folder / "report.json")
    if isinstance(report, Check):
        return _conclude([report])
    if not {DIGEST, "schema_version", "request"} & set(report):
        raise UserError(f"--verify {folder}: report.json is no report of an unlearning run; give the folder of one")
    checks = _own_checks(folder, report)
    try:
        run = _recorded(folder, report, args, scripts)
        checks += check_files(run)
        checks += check_figures(run)
    except UserError as error:
        # After a failed check, the change explains the error; otherwise something is missing on this machine.
        if all(check.holds is not False for check in checks):
            raise
        checks.append(Check(f"figures ({' '.join(str(error).split())})", "", "none", False))
    return _conclude(checks)


def _refuse(args: Any, folder: Path) -> None:
    default = type(args)()
    others = [field.name for field in dataclasses.fields(args) if field.name not in ("verify", *MOVED)]
    if given := [name for name in others if getattr(args, name) != getattr(default, name)]:
        raise UserError(f"--{given[0]} {getattr(args, given[0])}: --verify takes only --{', --'.join(MOVED)} beside it")
    if world_size() > 1:
        raise UserError(f"--verify {folder}: it runs in one process; do not use torchrun")
    check_folder("verify", folder)
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise UserError(f"--verify {folder}: no folder of a finished run (it has no {missing[0]})")


def _read_report(path: Path) -> dict | Check:
    """The report, or the failed check where the file is not a report."""
    try:
        report = json.loads(path.read_text(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return Check("report.json", "a report", f"none ({' '.join(str(error).split())[:60]})", False)
    return report if isinstance(report, dict) else Check("report.json", "a report", "none", False)


def _once(pairs: list[tuple[str, Any]]) -> dict:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def _own_checks(folder: Path, report: dict) -> list[Check]:
    """Checks that need no data: the report's digest and version, the configuration's digest, and the page."""
    config, path = folder / "config.yaml", folder / PAGE
    checks = [
        exact("report.json, its own digest", report.get(DIGEST), report_digest(report)),
        exact("report.json, version of the schema", report.get("schema_version"), SCHEMA_VERSION),
        exact("settings (config.yaml)", at(report, "run", "configuration_sha256"), file_digest(config)),
    ]
    if not path.is_file():
        return [*checks, Check(PAGE, "a page", "no such file", False)]
    kept = path.read_bytes()
    checks.append(exact(PAGE, report.get(PAGE_DIGEST), hashlib.sha256(kept).hexdigest()))
    try:
        pictures = [base64.b64decode(data) for data in PICTURE.findall(kept.decode(errors="replace"))]
        digests = [hashlib.sha256(png).hexdigest() for png in pictures]
        told = [picture["sha256"] for picture in report.get("pictures", [])]
        if told or digests:
            checks.append(exact(f"{PAGE}, its pictures", told, digests))
        made = report_page(report, pictures).encode()
        gaps = plain(summarise_gaps(report["models"]))
    except Exception:  # a malformed report can raise anything
        return [*checks, Check(f"{PAGE}, rendered again", "a page", "cannot be", False)]
    told = {name: report[name] for name in SUMMARIES if name in report}
    checks.append(_rendered_again(PAGE, kept, made, report))
    entries = report.get("requesters")
    pages = [
        (str(at(entry, "page")), at(entry, PAGE_DIGEST), functools.partial(requester_page, report, entry))
        for entry in (entries if isinstance(entries, list) else ())
    ]
    if CARD_DIGEST in report:
        pages.append((CARD, report[CARD_DIGEST], functools.partial(model_card, report)))
    for page in pages:
        checks += _page_checks(folder, report, *page)
    return [*checks, all_near("gaps to retrained, by the report's figures", told, gaps, ROUNDING)]


def _page_checks(folder: Path, report: dict, name: str, digest: object, make: Callable[[], str]) -> list[Check]:
    """Of a page that may have been given away or deleted: its digest, and whether this code renders it so."""
    try:
        kept = (folder / Path(name).name).read_bytes()
    except OSError:
        return [Check(name, "a page", "missing", None)]
    same = exact(name, digest, hashlib.sha256(kept).hexdigest())
    try:
        made = make().encode()
    except Exception:  # a malformed report can raise anything
        return [same, Check(f"{name}, rendered again", "a page", "cannot be", False)]
    return [same, _rendered_again(name, kept, made, report)]


def _rendered_again(name: str, kept: bytes, made: bytes, report: dict) -> Check:
    """Whether the page is what this code renders; another version of the code or of its libraries may differ."""
    what, version, own = f"{name}, rendered again", at(report, "run", "code"), code_version()
    libraries = re.search(r'<meta name="generator" content="([^"]*)">', kept.decode(errors="replace"))
    if kept == made:
        return Check(what, "the page", "the same", True)
    if libraries is not None and html.unescape(libraries[1]) != generator():
        return Check(what, "the page", "other versions", None)
    same_code = version == own and not own["changed"]
    return Check(what, "the page", "another" if same_code else "other code", False if same_code else None)


def _recorded(folder: Path, report: dict, given: Any, scripts: Mapping[str, ModuleType]) -> Recorded:
    """The run as its configuration describes it, with the present places of data and models."""
    config = folder / "config.yaml"
    values = load_config(config)
    known = {name: {field.name for field in dataclasses.fields(script.Args)} for name, script in scripts.items()}
    # The flags of a method of the user's own are known from their values, without its code.
    own = is_own(values.get("method"))
    fitting = [name for name, names in known.items() if names == set(values) or own and names < set(values)]
    if not fitting:
        raise UserError(f"--verify {folder}: config.yaml does not belong to an unlearning script of this version")
    flags = {name: value for name, value in values.items() if name not in known[fitting[0]]}
    args_class = with_flags(scripts[fitting[0]].Args, str(values.get("method")), flags)
    args = ScriptParser(args_class).parse(["--config_file", str(config)])
    default = type(given)()
    moved = {name: getattr(given, name) for name in MOVED if getattr(given, name) != getattr(default, name)}
    if "model" not in moved:
        refuse_unnamed_code(args.model, given.model, f"--verify {folder}")
    if "transform" not in moved:
        refuse_unnamed_transform(args.transform, None, f"--verify {folder}")
    return Recorded(folder, report, fitting[0], args, moved)


def _conclude(checks: list[Check]) -> dict:
    """Print the checks and the conclusion."""
    print(f"{'check':44s} {'reported':>16s} {'found':>16s}")
    for check in checks:
        print(check)
    held, differ, open_ = (sum(check.holds is state for check in checks) for state in (True, False, None))
    left = f", {open_} could not be made" if open_ else ""
    print(f"\n{held} of {len(checks)} checks hold{left}; {STATED}")
    said = "1 check differs" if differ == 1 else f"{differ} checks differ"
    print(f"the report does NOT hold: {said}" if differ else "the report HOLDS")
    return {"holds": not differ, "checks": [dataclasses.asdict(check) for check in checks]}
