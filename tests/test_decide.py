"""Prompt, retrieve or fine-tune: the search for passages, the decision, and the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune.commands.decide import _folder_name
from hydratune.data.rows import Message, stable_hash
from hydratune.errors import ConfigError, InputError
from hydratune.evaluation.decision import decide
from hydratune.evaluation.families import Answered
from hydratune.evaluation.measures import rate, request_turns, user_text
from hydratune.evaluation.retrieval import Library, Passage, from_files, pieces, with_sources
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import SweepJob, write_sweep
from hydratune.settings.evaluation import EvaluationConfig
from page_structure import check_page


def test_the_passage_about_the_question_is_found_first() -> None:
    library = Library(
        [
            Passage("tar", "list the contents of an archive"),
            Passage("cp", "copy a file"),
            Passage("mv", "rename a file"),
        ]
    )
    assert next(p.source for p in library.search("how do I copy a file?", 2)) == "cp"
    assert library.search("zebra", 2) == []
    assert len(library.search("file archive", 9)) == 3


def test_a_library_without_a_word_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to look things up in"):
        Library([Passage("", "")])


def test_pieces_keep_paragraphs_together_and_lose_no_word() -> None:
    text = "\n\n".join(
        " ".join(f"w{i}.{j}" for j in range(n)) for i, n in enumerate([5, 30, 3, 3, 70, 1])
    )
    passages = pieces(text, 32)
    assert " ".join(passages).split() == text.split()
    assert max(len(piece.split()) for piece in passages) <= 32
    assert any("w2.2\n\nw3.0" in piece for piece in passages)


def test_documents_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("alpha beta")
    (tmp_path / "b.jsonl").write_text('{"name": "x", "page": "gamma"}\n{"text": "delta"}\n')
    assert from_files(tmp_path, 50) == [
        Passage("a", "alpha beta"),
        Passage("x", "gamma"),
        Passage("b 2", "delta"),
    ]
    with pytest.raises(ConfigError, match="no such file"):
        from_files(tmp_path / "none", 50)
    (tmp_path / "b.jsonl").write_text('{"title": "x"}\n')
    with pytest.raises(InputError, match=r"b.jsonl:1: a document needs one of the fields"):
        from_files(tmp_path, 50)


def test_sources_stand_before_the_question() -> None:
    prompt = with_sources([Message("system", "S"), Message("user", "Q?")], [Passage("tar", "text")])
    assert prompt[0].content == "S"
    assert prompt[1].content.startswith("Sources:\n\n[1] tar: text") and prompt[1].content.endswith(
        "Q?"
    )


@pytest.mark.parametrize(
    ("right", "choice"),
    [
        ({"base": 0, "fewshot": 40, "rag": 45, "tuned": 90, "tuned_rag": 90}, "tune"),
        ({"base": 0, "fewshot": 40, "rag": 60, "tuned": 50, "tuned_rag": 90}, "tune_and_retrieve"),
        ({"base": 0, "fewshot": 40, "rag": 90, "tuned": 50, "tuned_rag": 90}, "retrieve"),
        ({"base": 0, "fewshot": 40, "rag": 90, "tuned": 50, "tuned_rag": 50}, "retrieve"),
        # a difference of one point does not decide
        ({"base": 0, "fewshot": 88, "rag": 80, "tuned": 89, "tuned_rag": 90}, "prompt"),
        ({"base": 0, "fewshot": 40, "rag": 45}, "open"),
        ({"base": 10, "tuned": 90}, "tune"),
    ],
)
def test_recommendation_follows_from_the_metrics(right: dict[str, int], choice: str) -> None:
    measures = {
        system: {"exact_match": rate([i < hits for i in range(100)])}
        for system, hits in right.items()
    }
    rows = {system: [{"group": None}] * 100 for system in right}
    decision = decide(measures, rows, "exact_match", 0.02, EvaluationConfig(bootstrap_samples=300))
    assert decision.choice == choice, decision
    for comparison in decision.comparisons:
        assert comparison.value == pytest.approx(
            (right[comparison.ours] - right[comparison.theirs]) / 100
        )
        assert comparison.better == (comparison.p < 0.05 and comparison.value > 0.02)


@pytest.mark.parametrize(
    ("base", "tuned", "choice"),
    [(10, 12, "undecided"), (0, 20, "tune"), (20, 0, "prompt"), (10, 10, "undecided")],
)
def test_few_rows_decide_only_what_they_show(base: int, tuned: int, choice: str) -> None:
    """Of 20 rows: a large difference is shown in either direction, a small one is not ruled out."""
    right = {"base": base, "tuned": tuned}
    measures = {
        system: {"exact_match": rate([(i * 7 + len(system)) % 20 < hits for i in range(20)])}
        for system, hits in right.items()
    }
    rows = {system: [{"group": None}] * 20 for system in right}
    decision = decide(measures, rows, "exact_match", 0.02, EvaluationConfig(bootstrap_samples=300))
    assert decision.choice == choice, decision
    is_named = any("20 independent test rows are too few" in reason for reason in decision.reasons)
    assert is_named is (choice != "undecided")
    assert ("cannot be decided" in decision.headline) is (choice == "undecided")


@pytest.mark.parametrize(
    ("tokens", "tuned", "choice"), [(700, 90, "either"), (150, 90, "prompt"), (700, 60, "prompt")]
)
def test_equal_quality_with_shorter_prompts_is_reported(
    tokens: int, tuned: int, choice: str
) -> None:
    right = {"base": 0, "fewshot": 88, "tuned": tuned}
    measures = {
        system: {"exact_match": rate([i < hits for i in range(100)])}
        for system, hits in right.items()
    }
    rows = {
        system: [{"group": None, "prompt_tokens": tokens if system == "fewshot" else 100}] * 100
        for system in right
    }
    decision = decide(measures, rows, "exact_match", 0.02, EvaluationConfig(bootstrap_samples=300))
    assert decision.choice == choice and ("7.0 times as long" in decision.headline) is (
        choice == "either"
    )


def test_a_smaller_number_is_better_where_it_is_a_loss() -> None:
    from hydratune.evaluation.measures import mean

    measures = {
        "base": {"nll": mean([2.0, 2.1, 1.9] * 20)},
        "tuned": {"nll": mean([1.0, 1.1, 0.9] * 20)},
    }
    rows = {system: [{"group": None}] * 60 for system in measures}
    assert (
        decide(measures, rows, "nll", 0.02, EvaluationConfig(bootstrap_samples=300)).choice
        == "tune"
    )


def test_answers_on_the_page_are_text() -> None:
    from hydratune.evaluation.decision_report import render

    rows = [
        {
            "group": None,
            "id": "<1>",
            "prompt": [{"role": "user", "content": "<b>?"}],
            "reference": "r",
            "prediction": "<script>x</script>",
        }
    ]
    measures = {"base": {"exact_match": rate([True])}}
    config = EvaluationConfig(bootstrap_samples=100)
    decided = decide(measures, {"base": rows}, "exact_match", 0.02, config)
    page = render(
        "n",
        "exact_match",
        decided,
        measures,
        {"base": rows},
        {"base": {"tokens_in": 1, "tokens_out": 1, "seconds": 1}},
        config,
    )
    assert (
        "&lt;script&gt;x" in page
        and "<script" not in page
        and "&lt;b&gt;?" in page
        and "row &lt;1&gt;" in page
    )


def test_decide_writes_its_report(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    records = [
        {"prompt": f"What is {i} plus {i}?", "completion": f"It is {2 * i}, of course."}
        for i in range(30)
    ]
    data = ["data=files", f"data.train={write_rows(tmp_path / 'rows.jsonl', records)}"]
    code, text = hydratune("train", *SMALL, *data, "hydra.run.dir=run")
    assert code == 0, text
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "sums.md").write_text("Two and two is four.\n\nThree plus three is six.")
    code, text = hydratune("decide", "run=run", "knowledge=docs", "evaluation.shots=1")
    assert code == 0, text
    folder = Path("outputs/decide/smoke-run")  # the name of the run, and its folder
    decision = json.loads((folder / "decision.json").read_text())
    assert set(decision["systems"]) == {"base", "fewshot", "nearest", "rag", "tuned", "tuned_rag"}
    assert decision["choice"] == "undecided" and "cannot be decided on" in decision["headline"]
    assert not any("too few to build on" in reason for reason in decision["reasons"])
    assert decision["metric"] == "rougeL" and decision["headline"] in text
    assert (
        decision["systems"]["rag"]["per_1000_calls"]["tokens_in"]
        > decision["systems"]["base"]["per_1000_calls"]["tokens_in"]
    )
    page = (folder / "report.html").read_text()
    assert "<title>tiny-random-llama on rows.jsonl, lr=" in page and "Decision · smoke" in page
    check_page(page)
    assert (
        decision["headline"] in page
        and "http:" not in page
        and "https:" not in page
        and "<script" not in page
    )
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert decision["systems"]["tuned"]["metrics"]["tuned/nll"] == pytest.approx(
        metrics["eval/nll"], rel=1e-5
    )

    code, text = hydratune("decide", "run=run", "data.batch_size=2", "output=decided")
    assert code == 2 and "run=DIR brings its own settings" in text
    code, text = hydratune("decide", "run=run", "metric=field_f1", "output=decided")
    assert code == 2 and "rougeL" in text
    code, text = hydratune("decide", "run=nowhere")
    assert code == 2 and "not a run directory" in text


def test_the_whole_prompt_is_stored_with_the_hash_of_its_tokens(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path, encoder: Any
) -> None:
    """This holds for every system, also from the cache. The row's own request is stored beside it:
    it is what is judged and searched for values.
    """
    records = [
        {"prompt": f"What is {i} plus {i}?", "completion": f"It is {2 * i}."} for i in range(30)
    ]
    data = [
        "data=files",
        f"data.train={write_rows(tmp_path / 'rows.jsonl', records)}",
        "evaluation.baselines=[base,fewshot]",
    ]
    for name in ("run", "again"):  # the second run uses the cache
        code, text = hydratune(
            "train",
            *[s for s in SMALL if "baselines" not in s],
            *data,
            "evaluation.shots=2",
            f"hydra.run.dir={name}",
        )
        assert code == 0, text
    assert "taken from the cache" in text
    code, text = hydratune("decide", "run=run", "name=mine", "evaluation.shots=2")
    assert code == 0, text
    files = [
        file
        for name in ("run", "again", "outputs/decide/mine-run")
        for file in Path(name).glob("predictions*.jsonl")
    ]
    assert len(files) == 3 + 3 + 6
    for file in files:
        for row in map(json.loads, file.read_text().splitlines()):
            prompt = [Message(turn["role"], turn["content"]) for turn in row["prompt"]]
            tokens = encoder.prompt_tokens(prompt, (), "test")
            assert (
                stable_hash(tokens) == row["prompt_hash"] and len(tokens) == row["prompt_tokens"]
            ), file
            request = request_turns(row)
            assert [turn["role"] for turn in request] == ["user"] and request[0][
                "content"
            ].startswith("What is")
            assert user_text(row) == request[0]["content"]
            plain = file.stem in ("predictions", "predictions_base", "predictions_tuned")
            assert ("request" in row) is not plain, file
            if "fewshot" in file.stem:
                assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant"] * 2 + [
                    "user"
                ]
    assert (
        Path("run/predictions_fewshot.jsonl").read_text()
        == Path("again/predictions_fewshot.jsonl").read_text()
    )


def test_values_are_searched_in_the_request_and_not_in_examples() -> None:
    turns = [{"role": "user", "content": "42"}]
    row = {"prompt": [{"role": "user", "content": "an example: 7"}, *turns], "request": turns}
    assert (
        Answered("", [""], None, row).source == "42"
        and Answered("", [""], None, {"prompt": turns}).source == "42"
    )


def test_every_run_and_every_model_has_an_output_folder_of_its_own(tmp_path: Path) -> None:
    assert _folder_name("contracts", "org/My model", None) == "contracts-org-My-model"
    assert _folder_name("contracts", "m", RunDirectory(tmp_path / "first")) == "contracts-first"
    for sweep in ("by_rank", "by_rate"):
        (tmp_path / sweep).mkdir()
        write_sweep(tmp_path / sweep, [SweepJob("3", ("seed=1",), {"seed": "1"})])
        assert _folder_name("contracts", "m", RunDirectory(tmp_path / sweep / "3")) == f"{sweep}-3"


def test_few_rows_decide_nothing_and_show_no_interval() -> None:
    from hydratune.evaluation.decision_report import render

    rows = [
        {
            "group": "all",
            "id": str(i),
            "prompt": [],
            "reference": "r",
            "prediction": "p",
            "finish_reason": "length",
        }
        for i in range(8)
    ]
    measures = {
        system: {"exact_match": rate([hit] * 8)}
        for system, hit in (("base", False), ("tuned", True))
    }
    config = EvaluationConfig(bootstrap_samples=200)
    predictions = dict.fromkeys(measures, rows)
    decision = decide(measures, predictions, "exact_match", 0.02, config)
    (comparison,) = decision.comparisons
    assert (
        comparison.interval is None
        and comparison.p == 1
        and not comparison.better
        and "(too few independent rows for an interval: 1)" in comparison.sentence()
    )
    assert decision.choice == "undecided" and decision.headline == (
        "this cannot be decided on 1 independent test row: give 30 or more; until then prompt, do"
        " not fine-tune yet (here base, zero-shot is as good as any prompt)"
    )
    assert any("one run of one seed" in reason for reason in decision.reasons)
    costs = {system: {"tokens_in": 1, "tokens_out": 1, "seconds": 1} for system in measures}
    page = render("n", "exact_match", decision, measures, predictions, costs, config)
    assert (
        "one group of rows: none" in page
        and "(too few independent rows for an interval: 1)" in page
        and '<th scope="col" class="n">cut</th>' in page
    )
    assert page.count('<td class="n">8</td>') == 2  # counts of cut answers of both
