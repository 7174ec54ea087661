"""Write synthetic rows with planted repeats, to see what `hydratune prepare` makes of a large file.

    python benchmarks/many_rows.py 200000 rows.jsonl
    /usr/bin/time -v hydratune prepare data=files data.train=rows.jsonl output=prepared

Words are drawn by rank as in natural language; of a hundred rows one repeats an earlier one and one
nearly does. What was planted is printed, to be compared with the report.
"""

import json
import random
import sys
from pathlib import Path


def main(count: int, path: Path) -> None:
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(2, 9))) for _ in range(20_000)
    ]
    weights = [1 / rank for rank in range(10, len(words) + 10)]
    repeated = nearly = 0
    earlier: list[tuple[str, str]] = []
    with path.open("w") as stream:
        for number in range(count):
            if earlier and number % 100 == 50:
                prompt, answer = rng.choice(earlier)
                prompt = f"  {prompt.upper()}!"
                repeated += 1
            elif earlier and number % 100 == 75:
                prompt, answer = rng.choice(earlier)
                prompt = f"{prompt} {rng.choice(words)}"
                nearly += 1
            else:
                drawn = rng.choices(words, weights, k=rng.randint(30, 110))
                prompt, answer = f"{' '.join(drawn[:-15])}?", f"{' '.join(drawn[-15:])}."
                if number % 20 == 0:
                    earlier.append((prompt, answer))
            stream.write(
                json.dumps({"id": f"row-{number}", "prompt": prompt, "completion": answer}) + "\n"
            )
    print(
        f"{count:,} rows, {path.stat().st_size / 1e6:.0f} MB: {repeated:,} repeat an earlier"
        f" request and answer, {nearly:,} nearly"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
