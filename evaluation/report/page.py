"""The page of a report: one HTML file that loads nothing, for a reader who is no researcher."""

import base64
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.report import words
from evaluation.report.evidence import figures, forgotten, rest
from evaluation.report.html import bullets, code, facts, foreign, paragraph, section, table, text
from evaluation.report.record import DIGEST

PAGE = "report.html"
TEMPLATE = Path(__file__).parent / "template"
# A picture as it stands in the page.
PICTURE = re.compile(r'<img src="data:image/png;base64,([A-Za-z0-9+/=]*)"')


def report_page(report: dict, pictures: Sequence[bytes] = ()) -> str:
    """The page of a report, the same whenever it is made again.

    Args:
        report: what `report.json` holds, by docs/report.schema.json.
        pictures: PNG files of the images that `report["pictures"]` tells of, in its order.
    """
    count = f"{report['request']['images']:,} image{'' if report['request']['images'] == 1 else 's'}"
    name = report["request"]["id"]
    heading = f"Removal of {count} from an image classifier"
    sections = [
        _verdict(report), _asked(report), _done(report), forgotten(report), rest(report), _copies(report),
        _sequence(report), _limits(report), figures(report), _pictures(report, pictures), _checking(report),
    ]  # fmt: skip
    contents = {
        "title": text(f"{heading}{'' if name is None else f' ({name})'}"),
        "style": _part("style.css"),
        "heading": text(heading),
        "lead": f"<p>{_reference(report)}Report of {text(_time_of(report))}.</p>",
        "sections": "\n".join(section for section in sections if section),
        "footer": f"<p>Digest of the report (report.json, SHA-256): {code(report[DIGEST])}</p>",
    }
    # In one pass, so that what users wrote is never taken for a place of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], _part("page.html"))


@functools.cache
def _part(name: str) -> str:
    return (TEMPLATE / name).read_text()


def _reference(report: dict) -> str:
    request = report["request"]
    named = "" if request["id"] is None else f"Request {foreign(request['id'])}"
    asker = "" if request["requester"] is None else f"{' by ' if named else 'Asked by '}{foreign(request['requester'])}"
    return f"{named}{asker}. " if named or asker else ""


def _time_of(report: dict) -> str:
    return report["created"].replace("T", " ").replace("+00:00", " UTC")


def _verdict(report: dict) -> str:
    headline, kind = words.headline(report)
    mark = {"good": "✓ ", "bad": "✗ ", "open": ""}[kind]
    said = "\n".join(paragraph(sentence) for sentence in words.verdict_sentences(report))
    title = f'<h2 id="verdict">{mark}{text(headline)}</h2>'
    return f'<section class="verdict {kind}" aria-labelledby="verdict">\n{title}\n{said}\n</section>'


def _asked(report: dict) -> str:
    request, data = report["request"], report["data"]
    order = "-u" if data["named_by"] == "file name" else "-nu"
    return section(
        "asked", "What was asked",
        facts([
            ("Request", None if request["id"] is None else foreign(request["id"])),
            ("Requester", None if request["requester"] is None else foreign(request["requester"])),
            ("To forget, as written", code(request["forget"] or "nothing")),
            ("Images to forget", f"{request['images']:,} of {data['images']['train']:,} that were trained on"),
            ("Data set", f"{foreign(data['dataset'])}, {data['classes']:,} classes"),
            ("Digest of their list", f"{code(request['sha256'])} (SHA-256)"),
        ]),
        paragraph(
            f"The digest names exactly these images without showing them. Write their {data['named_by']}s into a text "
            f"file, one a line{_counted(data)}, and compute it again:"
        ),
        f"<pre>LC_ALL=C sort {order} list.txt | sha256sum</pre>",
    )  # fmt: skip


def _counted(data: dict) -> str:
    if data["named_by"] == "file name":
        return " and relative to the data set's folder"
    return ", counted from 0 in the order of the data set"


def _done(report: dict) -> str:
    run, forget, method = report["run"], report["forget"], report["run"]["method"]
    did = "" if method is None else paragraph(words.method_sentence(method))
    epoch = forget.get("chosen_epoch")
    files = [
        [f"{text(words.ROLES[file['role']])}", code(file["path"]), code(file["sha256"])] for file in report["files"]
    ]
    return section(
        "done", "What was done", did,
        facts([
            ("Run", code(run["name"])),
            ("Program", f"{code(run['script'])}{'' if method is None else f', method {code(method)}'}"),
            ("Code", _code_version(run["code"])),
            ("Settings (config.yaml)", f"{code(run['configuration_sha256'])} (SHA-256); seed {run['seed']}"),
            ("Time", _time(report)),
            ("Saved state", None if epoch is None else f"after epoch {epoch}"),
            ("Hardware", foreign(_hardware(run))),
            ("Versions", foreign(f"Python {run['python']}, PyTorch {run['torch']}, {run['precision']}")),
        ]),
        "<h3>Files</h3>",
        table("Files", ["what", "file", "SHA-256"], files).replace("<table>", '<table class="words">', 1),
    )  # fmt: skip


def _code_version(version: dict) -> str:
    if version["commit"] is None:
        return f"version {foreign(version['version'] or 'unknown')}, no git checkout"
    state = {True: ", with changes that are not committed", False: ", unchanged", None: ""}[version["changed"]]
    return f"version {foreign(version['version'] or 'unknown')}, commit {code(version['commit'])}{state}"


def _time(report: dict) -> str | None:
    seconds, cost = report["run"]["seconds"], report["cost"]
    if seconds is None:
        return None
    steps = f"{cost['unlearned']['gradient_steps']:,} gradient steps"
    retraining = cost.get("retrained", {}).get("seconds")
    share = f"; {100 * seconds / retraining:.1f} % of the {_seconds(retraining)} of retraining" if retraining else ""
    return text(f"{_seconds(seconds)} ({steps}){share}")


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min"


def _hardware(run: dict) -> str:
    threads = "" if run["cpu_threads"] is None else f", {run['cpu_threads']} threads"
    device = "" if run["device"] in (None, "cpu") else f"{run['device']}; "
    return f"{device}{run['cpu'] or 'unknown'}{threads}"


def _copies(report: dict) -> str:
    if not report.get("copies"):
        return ""
    lines = []
    for place, found in report["copies"].items():
        examples = "; ".join(f"{code(one)} is {code(other)}" for one, other in found["examples"])
        said = f"{found['count']:,} of the images to forget also stand among the {words.PLACES[place]}"
        lines.append(f"{text(said)}{f': {examples}' if examples else ''}")
    return section(
        "copies", "Images that also stand elsewhere",
        paragraph("Found by comparing pixels. A copy that is kept goes on being learned from."), bullets(lines),
    )  # fmt: skip


def _sequence(report: dict) -> str:
    if "sequence" not in report:
        return ""
    sequence = report["sequence"]
    multiplier = sequence["multiplier"]
    return section(
        "sequence", "Earlier requests",
        paragraph("The model had already been made to forget images of earlier requests."),
        facts([
            ("This request is number", f"{sequence['number']:,}"),
            ("Run before it", code(sequence["previous_run"])),
            ("Forgotten by earlier requests", f"{sequence['forgotten_images']:,} images"),
            ("Budget spent by them", f"{sequence['budget_spent']:.2f} percentage points"),
            ("Multiplier taken over", None if multiplier is None else f"{multiplier:.4g}"),
        ]),
    )  # fmt: skip


def _limits(report: dict) -> str:
    lines = (f"<b>{text(first)}</b> {text(rest)}" for first, rest in words.limits(report))
    return section("limits", "What this does not prove", bullets(lines))


def _pictures(report: dict, pictures: Sequence[bytes]) -> str:
    if not report.get("pictures"):
        return ""
    shown = []
    for described, png in zip(report["pictures"], pictures, strict=True):
        data = base64.b64encode(png).decode()
        caption = f"{foreign(described['image'])}<br>label {foreign(described['label'])}"
        image = f'<img src="data:image/png;base64,{data}" alt="{text(described["image"])}">'
        shown.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return section(
        "pictures", "Some of the images",
        paragraph(f"{len(shown)} of the images that were to be forgotten: file this page accordingly."),
        f'<div class="pictures">{"".join(shown)}</div>',
    )  # fmt: skip


def _checking(report: dict) -> str:
    return section(
        "checking", "How to check this report",
        paragraph(
            "With the run's folder and the data at hand, this computes every digest and figure above again from the "
            "saved weights and splits, and makes this page again and compares it:"
        ),
        f"<pre>python test.py --verify runs/{text(report['run']['name'])}</pre>",
        paragraph(
            "That finds damage and careless change. Whoever forges a report on purpose can compute the digests anew: "
            "against that, sign the report, or keep its digest (below) where they cannot reach it."
        ),
    )  # fmt: skip
