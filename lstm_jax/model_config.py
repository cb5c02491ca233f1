"""The options of a model: `Config` has them as its section `model`."""

from dataclasses import dataclass

from lstm_jax.errors import UserError
from lstm_jax.options import Section, option


@dataclass(frozen=True)
class ModelConfig(Section):
    prefix = "model."
    hidden_size: int = option(128, "H, units a layer", low=1, high=65536)
    num_layers: int = option(1, "L, layers", low=1, high=64)
    embedding_size: int = option(
        0, "width of the embedding; 0: the first layer reads one-hot ids", low=0, high=65536
    )
    dropout: float = option(
        0.0, "variational dropout between layers and on the output", low=0, high=0.99
    )
    input_dropout: float = option(
        0.0, "variational dropout on what the first layer reads", low=0, high=0.99
    )
    embedding_dropout: float = option(
        0.0, "variational dropout of whole symbols before the embedding", low=0, high=0.99
    )
    weight_drop: float = option(
        0.0, "DropConnect on the recurrent weights U, anew at every training step", low=0, high=0.99
    )
    zoneout_cell: float = option(
        0.0, "how often a unit of c stays what it was for a time step", low=0, high=0.99
    )
    zoneout_hidden: float = option(
        0.0, "how often a unit of h stays what it was for a time step", low=0, high=0.99
    )
    cell: str = option(
        "lstm", "the kind of cell", choices=("lstm", "coupled", "layer_norm", "mogrifier")
    )
    mogrifier_rounds: int | None = option(
        None, "mogrifier: how often input and state scale each other (5)", low=0, high=100
    )
    mogrifier_rank: int | None = option(
        None, "mogrifier: rank of the matrices that they do it by; 0: full (0)", low=0, high=65536
    )
    skip: str = option(
        "none",
        "weighted: to what a layer puts out is added what the layer below does, times a learned "
        "weight a unit, at first 1",
        choices=("none", "weighted"),
    )
    readout: str = option(
        "full", "tied: the readout's matrix is the embedding's", choices=("full", "tied")
    )
    readout_rank: int = option(
        0, "rank of the readout's matrix, a product of two then; 0: one matrix", low=0, high=65536
    )
    forget_bias: float = option(1.0, "initial bias of the forget gate", low=-100, high=100)
    init: str = option("uniform", "initial weights", choices=("uniform", "notebook"))

    def __post_init__(self) -> None:
        super().__post_init__()
        mogrified = self.cell == "mogrifier" and self.mogrifier_rounds != 0
        plain = self.cell == "lstm" and self.readout == "full" and not self.readout_rank
        for name, means_something, instead in (
            ("mogrifier_rounds", self.cell == "mogrifier", "model.cell=mogrifier"),
            ("mogrifier_rank", mogrified, "model.cell=mogrifier and rounds of it"),
            ("embedding_dropout", self.embedding_size, "a model.embedding_size"),
            ("readout", self.embedding_size, "a model.embedding_size"),
            ("readout_rank", self.readout == "full", "model.readout=full"),
            ("skip", self.num_layers > 1, "a model.num_layers above 1"),
            ("init", plain, "model.cell=lstm and a full readout"),
        ):
            if self.differs(name) and not means_something:
                raise UserError(
                    f"model.{name}={getattr(self, name)} needs {instead}: give both, or neither"
                )

    def differs(self, name: str) -> bool:
        """Whether an option is not at its default."""
        return getattr(self, name) != type(self).__dataclass_fields__[name].default

    def beyond_bptt(self) -> str | None:
        """The first option that the hand-derived backward does not know, such as
        `model.cell=coupled`; None: it knows the model."""
        for name in ("cell", "readout", "readout_rank", "zoneout_cell", "zoneout_hidden"):
            if self.differs(name):
                return f"model.{name}={getattr(self, name)}"
        return None
