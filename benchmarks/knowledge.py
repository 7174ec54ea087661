r"""Write a task that needs facts: questions about a command's options, and the pages that answer.

    python benchmarks/knowledge.py FOLDER outputs/knowledge
    hydratune train data=files data.train=outputs/knowledge/train.jsonl \
        data.validation=outputs/knowledge/validation.jsonl data.test=outputs/knowledge/test.jsonl \
        hydra.run.dir=outputs/knowledge/run
    hydratune decide run=outputs/knowledge/run knowledge=outputs/knowledge/pages.jsonl \
        metric=normalised_match passages=1

FOLDER holds the published tldr pages, or is a clone of tldr-pages.

Pages of test questions are in no training row, as tomorrow's commands would be: weights cannot know
them, a look at the page can.
"""

import argparse
import json
import random
import re
from pathlib import Path
from typing import Any

from hydratune.data.cases.tldr import Page, read_pages

_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def rows(pages: list[Page], most: int) -> list[dict[str, Any]]:
    """One question of each page that has an example with a single option, in its long or its short
    form.
    """
    found: list[dict[str, Any]] = []
    for page in pages:
        for what, command in page.examples:
            options = sorted(set(_OPTION.findall(command)), key=len)
            if (
                not options
                or len(options) > 2
                or (len(options) == 2 and f"[{options[0]}|{options[1]}]" not in command)
            ):
                continue
            asked = f"Which option of {page.title} does this: {what.rstrip(':.').strip()}?"
            turns = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": options[-1]},
            ]
            found.append(
                {
                    "id": page.path,
                    "group": page.family,
                    "messages": turns,
                    "references": options[:-1],
                }
            )
            break
        if len(found) == most:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--pages", type=int, default=1500, help="of the library")
    args = parser.parse_args()
    pages = [page for page in read_pages(args.folder) if page.examples and not page.is_alias]
    random.Random(0).shuffle(pages)
    pages = pages[: args.pages]
    families: dict[str, list[Page]] = {}
    for page in pages:
        families.setdefault(page.family, []).append(page)
    order = [page for family in sorted(families) for page in families[family]]
    names = sorted(families)
    random.Random(1).shuffle(names)
    # families of commands of which nothing is trained; another tenth for validation
    third = len(names) // 3
    sides = {
        name: "test" if n < third else "validation" if n < third + len(names) // 10 else "train"
        for n, name in enumerate(names)
    }
    parts = {}
    for name, most in (("train", args.train), ("validation", 40), ("test", args.test)):
        some = [page for page in order if sides[page.family] == name]
        random.Random(2).shuffle(some)
        parts[name] = rows(some, most)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, some in parts.items():
        (args.output / f"{name}.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some), "utf-8"
        )
    library = "".join(
        json.dumps({"title": page.title, "text": page.text}, ensure_ascii=False) + "\n"
        for page in order
    )
    (args.output / "pages.jsonl").write_text(library, "utf-8")
    print(
        ", ".join(f"{name} {len(some)}" for name, some in parts.items()),
        f"and {len(order)} pages in {args.output}",
    )


if __name__ == "__main__":
    main()
