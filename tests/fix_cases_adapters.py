"""Commands whose adapter does not fit the model."""

from fix_case import MODEL, TOY, Case

OF_ADAPTERS: dict[str, list[Case]] = {
    "adapters.peft_rules:rank_problems": [
        Case(f"{TOY} adapter.r=65"),
        Case(f"{TOY} adapter=adalora adapter.init_r=65 adapter.tfinal=0 adapter.tinit=0"),
        Case(f"{TOY} adapter=pissa adapter.r=33"),
    ],
    "adapters.lora_rules:_pattern_problems": [
        Case(
            f"{TOY} adapter.rank_pattern.k_proj=33",
            {"set it to 32 or less": "adapter.rank_pattern.k_proj=32"},
        ),
        Case(
            f"{TOY} adapter.rank_pattern.query=4",
            {"q_proj": "-adapter.rank_pattern.query adapter.rank_pattern.q_proj=4"},
        ),
        Case(
            f"{TOY} '+adapter.rank_pattern={{.*_proj: 4, q_proj: 8}}'",
            {
                "put q_proj before": "'+adapter.rank_pattern={q_proj: 8, .*_proj: 4}'",
                "or take it out": "'+adapter.rank_pattern={.*_proj: 4}'",
            },
        ),
    ],
    "adapters.lora_rules:_bias_problems": [Case(f"{TOY} adapter.bias=all")],
    "adapters.methods.adalora:AdaLoraAdapter.phases": [
        Case(
            f"{TOY} adapter=adalora adapter.tinit=3 adapter.tfinal=3",
            {
                "lower adapter.tinit and adapter.tfinal": "adapter.tinit=0 adapter.tfinal=1",
                "train longer": "trainer.max_steps=null trainer.max_epochs=8",
            },
        )
    ],
    "adapters.methods.freeze:PartialFinetune.trained_parameters": [
        Case(f"{TOY} adapter=freeze adapter.last_layers=3")
    ],
    "adapters.methods.freeze:PartialFinetune._unknown_name": [
        Case(
            f"{TOY} adapter=freeze adapter.trainable=[head]",
            {"self_attn": "adapter.trainable=[self_attn]"},
        )
    ],
    "adapters.methods.ia3:Ia3Adapter.model_problems": [
        Case(
            f"{TOY} adapter=ia3 adapter.target_modules=[k_proj]"
            " adapter.feedforward_modules=[up_proj]",
            {"some of: k_proj": "adapter.feedforward_modules=[k_proj]"},
        )
    ],
    "adapters.methods.ia3:Ia3Adapter._feedforward": [
        Case(
            f"{TOY} {MODEL}=phi adapter=ia3 adapter.target_modules=[qkv_proj,down_proj]"
            " adapter.feedforward_modules=null",
            {
                "adapter.feedforward_modules=[...]": "adapter.feedforward_modules=[down_proj]",
                "or [] if there are none": "adapter.feedforward_modules=[]",
            },
            ("models",),
        )
    ],
    "adapters.methods.oft:OftAdapter.model_problems": [
        Case(f"{TOY} adapter=oft adapter.oft_block_size=48")
    ],
    "adapters.peft_rules:_extra_problem": [
        Case(
            f"{TOY} adapter.extra.nonsense=1",
            {"lora_bias": "-adapter.extra.nonsense adapter.extra.lora_bias=false"},
        ),
        Case(f"{TOY} adapter.extra.use_dora=true"),
        Case(f"{TOY} adapter.extra.target_modules=[q_proj]"),
        Case(
            f"{TOY} adapter.extra.lora_bias=3",
            {"correct the value": "adapter.extra.lora_bias=false"},
        ),
    ],
    "adapters.peft_rules:_modules_to_save": [
        Case(
            f"{TOY} adapter.modules_to_save=[q_proj]",
            {
                "leave it to one of the two": "adapter.modules_to_save=[]",
                "leave it to one": "adapter.exclude_modules=[q_proj]",
            },
        ),
        Case(
            f"{TOY} adapter=vera adapter.modules_to_save=[embed_tokens]",
            {"take it out": "adapter.modules_to_save=[]", "adapter=lora": "adapter=lora"},
        ),
    ],
    "adapters.peft_rules:_no_such_module": [
        Case(
            f"{TOY} adapter.modules_to_save=[head]",
            {"lm_head": "adapter.modules_to_save=[lm_head]"},
        ),
        Case(
            f"{TOY} adapter.modules_to_save=[layernorm]",
            {"input_layernorm": "adapter.modules_to_save=[input_layernorm]"},
        ),
    ],
    "adapters.peft_rules:_tied_head": [
        Case(
            f"{TOY} adapter.target_modules=[all-linear,lm_head]",
            {
                "leave lm_head out": "adapter.target_modules=[all-linear]",
                "adapter=lora adapter.modules_to_save=[lm_head]": "adapter=lora"
                " adapter.modules_to_save=[lm_head] adapter.target_modules=[all-linear]",
            },
        )
    ],
    "adapters.peft_rules:_target_parameters": [
        Case(
            f"{TOY} adapter.extra.target_parameters=[weights]",
            {"leave it out": "-adapter.extra.target_parameters"},
        ),
        Case(
            f"{TOY} {MODEL}=experts adapter.extra.target_parameters=[weights]",
            {"experts.down_proj": "adapter.extra.target_parameters=[experts.down_proj]"},
            ("models",),
        ),
    ],
    "adapters.peft_rules:_token_layers": [
        Case(
            f"{TOY} 'adapter.extra.trainable_token_indices={{embeddings: [3]}}'",
            {
                "the embeddings are model.embed_tokens": "'adapter.extra.trainable_token_indices="
                "{model.embed_tokens: [3]}'"
            },
        )
    ],
    "adapters.peft_rules:_token_numbers": [
        Case(
            f"{TOY} adapter.extra.trainable_token_indices=[100000]",
            {"numbers of tokens, from 0": "adapter.extra.trainable_token_indices=[0,3]"},
        ),
    ],
    "adapters.targets:glob_like": [
        Case(
            f"{TOY} {MODEL}=deep 'adapter.target_modules=[\"model.layers.1.*\"]'",
            {
                '[.]1[.].*"': "'adapter.target_modules=[\"model[.]layers[.]1[.].*\"]'",
                "if that is meant": "'adapter.target_modules=[\"model[.]layers[.]1[0-9]*[.].*\"]'",
            },
            ("models",),
        )
    ],
    "adapters.targets:target_patterns": [
        Case(
            f"{TOY} {MODEL}=phi adapter.target_modules=null",
            {"qkv_proj": "adapter.target_modules=[qkv_proj]"},
            ("models",),
        )
    ],
    "adapters.targets:_unknown_names": [
        Case(
            f"{TOY} adapter.target_modules=[query]",
            {"q_proj": "adapter.target_modules=[q_proj]"},
        ),
        Case(
            f"{TOY} adapter.exclude_modules=[query]",
            {"q_proj": "adapter.exclude_modules=[q_proj]"},
        ),
    ],
    "adapters.targets:_no_layer": [
        Case(
            f"{TOY} adapter.target_modules=[q_proj] adapter.exclude_modules=[q_proj]",
            {"choose among": "adapter.target_modules=[v_proj]"},
        )
    ],
    "adapters.targets:_excluded_shorthand": [
        Case(
            f"{TOY} adapter.exclude_modules=[all-linear]",
            {"some of": "adapter.exclude_modules=[q_proj]"},
        )
    ],
    "adapters.targets:_unused_names": [
        Case(f"{TOY} adapter.target_modules=[q_proj,v_proj] adapter.exclude_modules=[q_proj]"),
        Case(
            f"{TOY} adapter.layers_to_transform=[0]"
            " 'adapter.target_modules=[q_proj,\".*[.]1[.].*v_proj\"]'",
        ),
    ],
    "adapters.targets:_wrong_layers": [
        Case(
            f"{TOY} adapter.layers_to_transform=[0,2]",
            {
                "choose among them": "adapter.layers_to_transform=[0,1]",
                "null for all": "adapter.layers_to_transform=null",
            },
        ),
        Case(
            f"{TOY} adapter.layers_to_transform=[0] adapter.layers_pattern=blk",
            {"this model has: layers": "adapter.layers_pattern=layers"},
        ),
    ],
    "training.parameter_groups:_unused_rates": [
        Case(
            f"{TOY} optimizer.lr_groups.nothing=2",
            {"names are such as": "-optimizer.lr_groups.nothing optimizer.lr_groups.lora_A=2"},
        ),
        Case(
            f"{TOY} adapter=vera optimizer.loraplus_lr_ratio=16",
            {
                "set it to null": "optimizer.loraplus_lr_ratio=null",
                "or adapter=lora": "adapter=lora",
            },
        ),
        Case(f"{TOY} adapter=prompt_tuning optimizer.layer_lr_decay=0.9"),
    ],
}
