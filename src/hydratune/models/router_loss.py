"""The loss that balances the experts of a model, which its config can ask for."""

from transformers import PretrainedConfig

from hydratune.errors import ConfigError, Problem
from hydratune.settings.model import ModelConfig

_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef", "router_z_loss_coef")


def refuse_router_loss(model: ModelConfig, config: PretrainedConfig) -> None:
    """Raise ``ConfigError`` if ``config`` asks for a loss of the routers in training.

    It is no sum over tokens (a product of averages over the whole batch), so it has no meaning for
    a batch that is computed in parts. Left at their defaults, configs do not ask for it.
    """
    text = config.get_text_config()
    weights = {name: getattr(text, name, None) for name in _WEIGHTS}
    used = {name: weight for name, weight in weights.items() if weight}
    if getattr(text, "output_router_logits", None) is not True or not used:
        return
    why = (
        "its config asks for a loss that balances the experts (output_router_logits is true,"
        f" {', '.join(f'{name} is {weight}' for name, weight in used.items())}), and hydratune"
        " trains the cross-entropy alone"
    )
    fix = 'set "output_router_logits": false in the config.json of a copy of the model in a folder'
    raise ConfigError([Problem(*model.own_name(), why, fix)])
