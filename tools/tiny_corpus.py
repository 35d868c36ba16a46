"""Collect the freely licensed text that the tiny model is trained on into one JSON-lines file.

Reads the standard library of the running interpreter, and novels, manuals and a dictionary out of Debian packages
(`apt-get download` and `dpkg-deb -x`, no root). Writes `corpus.jsonl`, one document a line: kind (code, prose, chat),
source, name, held_out, text. Does not tokenize. Run: `python -m tools.tiny_corpus DIR`.
"""

import argparse
import ast
import gzip
import html
import json
import re
import struct
import subprocess
import sysconfig
import textwrap
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.tiny_tokenizer import render_chat

PACKAGES = (
    "r-cran-janeaustenr",
    "python3.11-doc",
    "debian-handbook",
    "debian-reference-en",
    "developers-reference",
    "debian-history",
    "dict-devil",
)
SKIPPED_FOLDERS = {
    "site-packages", "test", "tests", "lib2to3", "encodings", "idle_test", "idlelib", "__pycache__", "turtledemo",
    "pydoc_data", "_pyrepl", "__phello__", "msilib", "ensurepip",
}  # fmt: skip
HELD_OUT_CODE = {"textwrap.py", "heapq.py", "shlex.py", "sched.py", "json/decoder.py", "fnmatch.py", "statistics.py"}
HELD_OUT_PAGES = {"howto/sorting", "tutorial/floatingpoint", "library/heapq", "library/textwrap", "faq/design"}
HELD_OUT_CHAPTER = 17  # of every 20 chapters of the novels
MAX_CODE_CHARS = 120_000  # longer modules are mostly tables


@dataclass(frozen=True)
class Document:
    kind: str
    source: str
    name: str
    held_out: bool
    text: str


def without_licence(source: str) -> str:
    """Drop the leading comment block of a module: shebang, coding line, licence."""
    lines = source.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
    return "".join(lines[first:])


def standard_library() -> Iterator[Document]:
    """The modules of the running interpreter, without tests and generated tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if SKIPPED_FOLDERS & set(path.relative_to(root).parts) or path.name.startswith("_sysconfigdata"):
            continue
        text = without_licence(path.read_text(encoding="utf-8", errors="replace"))
        if 200 < len(text) < MAX_CODE_CHARS:
            yield Document("code", "python-stdlib", name, name in HELD_OUT_CODE, text)


def r_strings(blob: bytes) -> list[str]:
    """The strings of a serialized R character vector.

    Source: R Internals, section 1.8, Serialization Formats (XDR, version 3): a 14-byte header, the encoding's name,
    then flags and lengths as big-endian 32-bit integers. Strings carry a flags word and a length, -1 if missing.
    """
    at = 18 + struct.unpack_from(">i", blob, 14)[0]
    flags, count = struct.unpack_from(">ii", blob, at)
    if flags & 0xFF != 16:
        return []
    strings, at = [], at + 8
    for _ in range(count):
        size = struct.unpack_from(">i", blob, at + 4)[0]
        strings.append(blob[at + 8 : at + 8 + max(size, 0)].decode("utf-8", "replace"))
        at += 8 + max(size, 0)
    return strings


def novels(root: Path) -> Iterator[Document]:
    """Jane Austen's six novels, one document a chapter."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    chapter_number = 0
    while data:
        unzip = zlib.decompressobj()  # entries stand one after the other: 4 bytes of length, then a zlib stream
        blob = unzip.decompress(data[4:]) + unzip.flush()
        data = unzip.unused_data
        lines = r_strings(blob)
        if not lines:
            continue
        title = lines[0].title()
        for number, chapter in enumerate(re.split(r"(?im)^(?=chapter [\divxlc]+)", "\n".join(lines))[1:], 1):
            held_out = chapter_number % 20 == HELD_OUT_CHAPTER
            chapter_number += 1
            yield Document("prose", "janeaustenr", f"{title} {number}", held_out, unwrapped(chapter))


def unwrapped(text: str) -> str:
    """One line a paragraph."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()) + "\n"


def page_text(markup: str) -> str:
    """The running text of an HTML page: paragraphs, items, headings and listings, without tables and navigation."""
    body = markup.split("<body", 1)[-1]
    body = re.sub(r"(?is)<(script|style|table|head)\b.*?</\1>", "", body)
    out = []
    for match in re.finditer(r'(?is)<(h[1-6]|p|pre|dt|div(?= class="para"))\b[^>]*>(.*?)</\1>', body):
        tag, inner = match.group(1).lower(), html.unescape(re.sub(r"(?s)<[^>]*>", "", match.group(2)))
        inner = inner.strip("\n") if tag == "pre" else " ".join(inner.split()).replace("¶", "")
        if inner.strip():
            out.append("# " + inner if tag[0] == "h" else inner)
    return "\n\n".join(out) + "\n"


def manuals(root: Path) -> Iterator[Document]:
    """The Python documentation (reStructuredText) and the Debian books (HTML and text)."""
    for path in sorted((root / "python3.11-doc").rglob("_sources/**/*.rst.txt*")):
        name = path.as_posix().split("_sources/")[1].split(".rst")[0]
        if name.startswith(("c-api", "distutils", "whatsnew/changelog", "changelog", "license")):
            continue
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        yield Document("prose", "python3.11-doc", name, name in HELD_OUT_PAGES, raw.decode())
    html_pages = [
        *sorted((root / "debian-handbook").rglob("html/en-US/*.html")),
        *sorted((root / "debian-reference-en").rglob("ch*.en.html")),
        *sorted((root / "debian-history").rglob("docs/[a-z]*.en.html")),
        *sorted((root / "developers-reference").rglob("developers-reference/[b-z]*.html")),
    ]
    for page in html_pages:
        package = page.relative_to(root).parts[0]
        if page.stem in ("developers-reference", "genindex", "search", "index"):
            continue
        text = page_text(page.read_text(encoding="utf-8", errors="replace"))
        if len(text) > 500:
            yield Document("prose", package, page.stem, False, text)


def devils_dictionary(root: Path) -> list[tuple[str, str]]:
    """(headword, definition) pairs of Bierce's dictionary."""
    raw = gzip.decompress(next(root.rglob("devil.dict.dz")).read_bytes()).decode("utf-8", "replace")
    entries = re.findall(r"(?ms)^([A-Z][A-Z' -]+), (.*?)(?=^[A-Z][A-Z' -]+, |\Z)", raw)
    return [(word, unwrapped(textwrap.dedent(text)).strip()) for word, text in entries]


def chats(documents: list[Document], definitions: list[tuple[str, str]]) -> Iterator[Document]:
    """Questions whose answers stand in the other documents, rendered by the chat template."""

    def chat(name: str, question: str, answer: str) -> Document:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return Document("chat", "derived", name, False, render_chat(turns))

    for word, text in definitions:
        if len(text) < 1200:
            yield chat(word, f"Define {word.lower()}.", f"{word}, {text}")
    for document in documents:
        if document.held_out:
            continue
        if document.source == "janeaustenr":
            paragraphs = document.text.split("\n\n")
            for i in range(4, len(paragraphs) - 2, 12):
                answer = "\n\n".join(paragraphs[i + 1 : i + 3])
                if 60 < len(paragraphs[i]) < 600 and len(answer) < 1500:
                    yield chat(f"{document.name} {i}", f"Continue the story: {paragraphs[i]}", answer)
        if document.kind == "code":
            yield from (chat(name, ask, answer) for name, ask, answer in function_questions(document))


def function_questions(document: Document) -> Iterator[tuple[str, str, str]]:
    """(name, question, answer) for the short documented functions of a module."""
    try:
        tree = ast.parse(document.text)
    except SyntaxError:
        return
    lines = document.text.splitlines()
    module = document.name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        doc = ast.get_docstring(node)
        code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if not doc or not 80 < len(code) < 1500:
            continue
        summary = doc.split("\n\n")[0].replace("\n", " ").rstrip(".")
        yield node.name, f"Write a Python function {node.name}: {summary}.", f"```python\n{code}\n```"
        if len(doc) > 120:
            yield node.name, f"What does {node.name} in the module {module} do?", doc


def unpack(package: str, folder: Path) -> Path:
    """Download and unpack one Debian package below `folder`; returns its root."""
    root = folder / package
    if not root.exists():
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        root.mkdir()
        subprocess.run(["dpkg-deb", "-x", str(archive), str(root)], check=True)
    return root


def prompts(documents: list[Document]) -> list[dict[str, str]]:
    """Four code and four prose prompts of about a hundred tokens, all from held-out documents."""
    chosen: list[dict[str, str]] = []
    for kind, names in (
        ("code", ("textwrap.py", "shlex.py", "heapq.py", "json/decoder.py")),
        ("prose", [*[d.name for d in documents if d.held_out and d.source == "janeaustenr"][1:4], "faq/design"]),
    ):
        for name in names:
            text = next(d.text for d in documents if d.name == name and d.held_out)
            if kind == "code":
                start = text.index("\ndef ") + 1
            else:  # a passage of running text from the second third of the document
                places = (match.end() for match in re.finditer(r"\n\n", text) if match.end() > len(text) // 3)
                start = next(place for place in places if not re.search(r"\n |^[ .=*-]", text[place : place + 400]))
            cut = text[start : start + 400]
            chosen.append({"kind": kind, "text": cut[: cut.rindex("\n" if kind == "code" else " ")]})
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="receives the packages and corpus.jsonl")
    parser.add_argument("--prompts", type=Path, help="also write the held-out prompts to this JSON file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        unpack(package, arguments.folder)
    documents = [*standard_library(), *novels(arguments.folder / "r-cran-janeaustenr"), *manuals(arguments.folder)]
    documents += chats(documents, devils_dictionary(arguments.folder / "dict-devil"))
    with open(arguments.folder / "corpus.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(document), ensure_ascii=False) + "\n" for document in documents)
    for source in sorted({d.source for d in documents}):
        sizes = [len(d.text) for d in documents if d.source == source]
        print(f"{source:22} {len(sizes):6} documents {sum(sizes) / 1e6:7.2f} M characters")
    if arguments.prompts:
        arguments.prompts.write_text(json.dumps(prompts(documents), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
