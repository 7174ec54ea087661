"""Commands that meet an earlier run."""

from fix_case import FEW, JUDGE, JUDGED, LONGER, RUN, SWEEP_OF_TWO, TEXTS, TOY, Case

OF_RUN_FOLDERS: dict[str, list[Case]] = {
    "experiment.lifecycle:refuse_foreign_directory": [
        Case(
            f"{RUN} hydra.run.dir=run",
            {
                "choose another hydra.run.dir": "hydra.run.dir=new",
                "or delete that directory": "! rm -r run",
                "resume=extend, with a larger": f"resume=extend {LONGER}",
            },
            ("run",),
        ),
        Case(
            f"{TOY} hydra.run.dir=others",
            {"choose another directory": "hydra.run.dir=new"},
            setup="mkdir others && touch others/metrics.json",
        ),
    ],
    "experiment.extension:_changed": [
        Case(
            f"{RUN} hydra.run.dir=run resume=extend {LONGER} optimizer.lr=2e-3",
            {
                "remove optimizer.lr=2e-3": "-optimizer.lr",
                "model.adapter=run/adapter, in another": "model.adapter=run/adapter"
                " hydra.run.dir=new -resume",
            },
            ("run",),
        ),
        Case(
            f"{TOY} adapter=none hydra.run.dir=full resume=extend {LONGER} optimizer.lr=2e-3",
            {
                "model=local model.path=full/adapter": "model=local model.path=full/adapter"
                " hydra.run.dir=new -resume",
            },
            ("full",),
        ),
        Case(
            f"train hydra.run.dir=run resume=extend {LONGER} adapter.r=8",
            {"remove adapter.r=8": "-adapter.r"},
            ("run",),
        ),
    ],
    "experiment.extension:_not_longer": [
        Case(f"{RUN} hydra.run.dir=run resume=extend", needs=("run",)),
    ],
    "experiment.extension:_problem": [
        Case(
            f"{RUN} hydra.run.dir=nothing resume=extend {LONGER}",
            {"give the directory of a finished run": "hydra.run.dir=run"},
            ("run",),
        ),
        Case(
            f"{RUN} hydra.run.dir=run resume=extend {LONGER}",
            {"model.adapter=run/adapter": "model.adapter=run/adapter hydra.run.dir=new -resume"},
            ("run",),
            "rm -r run/checkpoints",
        ),
        Case(
            f"{TOY} adapter=none hydra.run.dir=full resume=extend {LONGER}",
            {
                "model=local model.path=full/adapter": "model=local model.path=full/adapter"
                " hydra.run.dir=new -resume",
            },
            ("full",),
            "rm -r full/checkpoints",
        ),
        Case(
            f"{RUN} hydra.run.dir=sweep/0 resume=extend {LONGER}",
            needs=("run",),
            setup=f"mkdir sweep && mv run sweep/0 && {SWEEP_OF_TWO}",
        ),
        Case(
            f"{RUN} 'hydra.run.dir=\"it'\"'\"'s\"' resume=extend {LONGER}",
            needs=("run",),
            setup='mv run "it\'s" && rm -r "it\'s/checkpoints"',
        ),
    ],
    "experiment.resuming:_problem": [
        Case(
            f"{RUN} optimizer.lr=2e-3 hydra.run.dir=run",
            {
                "resume=never begins anew": "resume=never",
                "choose another hydra.run.dir": "hydra.run.dir=new",
            },
            ("run",),
            "sed -i s/finished/stopped/ run/status.json && rm run/digests.json",
        ),
        Case(
            f"{TEXTS} hydra.run.dir=texts",
            {"resume=force resumes it nevertheless": "resume=force"},
            ("texts",),
            "sed -i s/finished/stopped/ texts/status.json && rm texts/digests.json"
            " && sed -i s/Yes/No/ texts.jsonl",
        ),
    ],
    "experiment.resuming:_lengthen": [
        Case(
            f"{RUN} hydra.run.dir=run resume=extend trainer.max_epochs=2",
            {"raise trainer.max_epochs, and trainer.max_steps": LONGER},
            ("run",),
        ),
    ],
    "experiment.data_consistency:refuse_other_rows": [
        Case(
            f"{TEXTS} hydra.run.dir=sweep/1",
            {
                "restore the data": "! mv kept.jsonl texts.jsonl",
                "choose another hydra.sweep.dir": "hydra.run.dir=new/1",
                "resume=force compares": "resume=force",
            },
            ("texts",),
            "mkdir sweep && mv texts sweep/0 && cp texts.jsonl kept.jsonl"
            f" && sed -i s/Yes/No/ texts.jsonl && {SWEEP_OF_TWO}",
        ),
    ],
    "sweeps.job_checks:refuse_other_settings": [
        Case(
            f"train -m {RUN[6:]} seed=1,2 hydra.sweep.dir=sweep",
            {
                "choose another hydra.sweep.dir": "hydra.sweep.dir=new",
                "or delete that one": "! rm -r sweep",
            },
            ("run",),
            "mkdir sweep && mv run sweep/0",
        ),
    ],
    "sweeps.job_checks:refuse_other_environment": [
        Case(
            f"train -m {RUN[6:]} seed=0,1 hydra.sweep.dir=sweep",
            {
                "resume=force compares them": "resume=force",
                "choose another hydra.sweep.dir": "hydra.sweep.dir=new",
            },
            ("run",),
            "mkdir sweep && mv run sweep/0 && rm sweep/0/digests.json"
            """ && sed -i 's/"torch": "/"torch": "0./' sweep/0/environment.json""",
        ),
    ],
    "sweeps.job_checks:refuse_other_halving": [
        Case(
            f"train -m {RUN[6:]} seed=0,1 hydra.sweep.dir=sweep hydra.launcher.halving.min_steps=1",
            {
                "or switch it off": "hydra.launcher.halving.min_steps=null",
                "choose another hydra.sweep.dir": "hydra.sweep.dir=new",
            },
            ("run",),
            "mkdir sweep && mv run sweep/0 && rm sweep/0/digests.json"
            """ && sed -i '1s/{/{"rungs": [{"step": 2, "loss": 1.0}],/' sweep/0/status.json""",
        ),
    ],
    "sweeps.launch:_refuse_other_contents": [
        Case(
            f"train -m {RUN[6:]} seed=0,1 hydra.sweep.dir=sweep",
            {"choose another hydra.sweep.dir": "hydra.sweep.dir=new"},
            setup="mkdir sweep &&"
            """ echo '{"jobs": {}, "study": {"storage": "a", "name": "b"}}' > sweep/sweep.json""",
        ),
    ],
    "sweeps.search.run:_refuse_other_sweep": [
        Case(
            f"train -m {RUN[6:]} seed=0,1 hydra.sweep.dir=sweep hydra/sweeper=random"
            " hydra.sweeper.n_trials=2",
            {"choose another hydra.sweep.dir": "hydra.sweep.dir=new"},
            setup=f"mkdir sweep && {SWEEP_OF_TWO}",
        ),
    ],
    "sweeps.job_checks:check_job": [
        Case(
            f"train -m {RUN[6:]} resume=extend {LONGER} seed=0,1",
            {
                "leave -m out, and name the run": f"hydratune {RUN} resume=extend {LONGER}"
                " hydra.run.dir=run"
            },
            ("run",),
        ),
    ],
}


OF_OTHER_COMMANDS: dict[str, list[Case]] = {
    "settings.commands:_run_problems": [
        Case(
            "evaluate run=nowhere source=predictions",
            {"give a run directory": "run=run"},
            ("run",),
        ),
        Case(
            f"decide run=nowhere debug=smoke {FEW}",
            {
                "give a run directory": "run=run -debug",
                "or leave it out": "-run",
            },
            ("run",),
        ),
    ],
    "settings.commands:EvaluateConfig.problems": [
        Case(
            "evaluate run=run constrained=true texts=some.txt",
            {"leave one of the two out": "-texts", "leave one of the two": "-constrained"},
            ("run",),
            "echo hello > some.txt",
        ),
    ],
    "settings.commands:JudgeConfig.problems": [
        Case(
            "judge run=run max_tokens=4 attempts=1 rows=1",
            {"or local=base": "local=base", "or local=DIR": "local=base_folder"},
            ("run", "models"),
            "mv base base_folder",
            ends=JUDGED,
        ),
        Case(f"{JUDGE} system=tuned", {"one of: eval": "system=eval"}, ("run",), ends=JUDGED),
        Case(
            f"{JUDGE} '+rubric={{6: perfect}}'",
            {"see hydratune judge --cfg job": "hydratune judge --cfg job"},
            ("run",),
        ),
    ],
    "evaluation.judge.inputs:read_answers": [
        Case(
            f"{JUDGE} system=base",
            {"one of its systems": "system=eval"},
            ("run",),
            ends=JUDGED,
        )
    ],
    "evaluation.judge.inputs:read_other_answers": [
        Case(
            f"{JUDGE} against=nowhere",
            {
                "give a run directory": "against=other",
                "or a system of the same run": "against=eval",
            },
            ("run",),
            "cp -r run other",
            ends=JUDGED,
        ),
        Case(
            f"{JUDGE} against=texts",
            {"compare runs with the same test rows": "against=other"},
            ("run", "texts"),
            "cp -r run other",
            ends=JUDGED,
        ),
    ],
    "evaluation.judge.inputs:read_labels": [
        Case(
            f"{JUDGE} labels=nowhere.jsonl",
            {"give a JSONL file": "labels=labels.jsonl"},
            ("run",),
            """echo '{"id": "x", "score": 3}' > labels.jsonl""",
            ends=JUDGED,
        )
    ],
    "evaluation.retrieval:documents": [
        Case(
            "evaluate run=run texts=nowhere",
            {"give a text file": "texts=some.txt", "or a folder of texts": "texts=folder"},
            ("run",),
            "echo hello > some.txt && mkdir folder && cp some.txt folder",
        )
    ],
    "experiment.constrained:evaluate_constrained": [
        Case(
            "evaluate run=run constrained=true source=predictions",
            {"leave source out": "-source"},
            ("run",),
        )
    ],
    "evaluation.constrained:no_schema": [
        Case("evaluate run=texts constrained=true", {"or leave it out": "-constrained"}, ("texts",))
    ],
    "experiment.other_texts:evaluate_other_texts": [
        Case(
            "evaluate run=run texts=some.txt source=predictions",
            {"leave source out": "-source"},
            ("run",),
            "echo hello > some.txt",
        )
    ],
    "experiment.other_texts:_read_texts": [
        Case(
            "evaluate run=run texts=folder",
            {"leave it out": "! rm folder/a.txt"},
            ("run",),
            "mkdir folder && touch folder/a.txt && echo hello > folder/b.txt",
        )
    ],
    "experiment.other_texts:_window": [
        Case(
            "evaluate run=run texts=some.txt window=5000",
            {"from 1": "window=1", "to 2048": "window=2048"},
            ("run",),
            "echo hello > some.txt",
        ),
        Case(
            "evaluate run=run texts=some.txt window=9 stride=0",
            {"from 1": "stride=1", "to 9": "stride=9"},
            ("run",),
            "echo hello > some.txt",
        ),
    ],
    "experiment.decision:choose_settings": [
        Case(
            f"decide run=unfinished {FEW}",
            {"give a finished run": "run=run"},
            ("run",),
            "cp -r run unfinished && rm -r unfinished/adapter",
        )
    ],
    "experiment.decision:_refuse_settings_beside_run": [
        Case(
            f"decide run=run debug=smoke data.max_length=900 {FEW}",
            {
                "leave one of the two out": "-debug -data.max_length",
                "leave one of the two": "-run",
            },
            ("run",),
        )
    ],
    "experiment.decision:require_prompts": [
        Case(
            f"decide run=texts {FEW}",
            {"give rows of requests and answers": "run=run"},
            ("texts", "run"),
        )
    ],
    "experiment.decision:decide_systems": [
        Case(
            f"decide run=run {FEW} metric=rougeL",
            {
                "choose one of them": "metric=exact_match",
                "add its family with evaluation.metrics": "evaluation.metrics=[json,rouge]",
            },
            ("run",),
        )
    ],
}
