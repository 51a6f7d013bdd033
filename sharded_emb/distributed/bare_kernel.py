"""A fused kernel on a CPU, asked without FBGEMM's module around it.

The module looks up and checks the same arguments before each call, most of which only a GPU has: 150 us, three times
what the operator takes for a few ids. Here they are gathered once. The module also puts row 0 in the place of ids that
are out of range, with a warning, and mends offsets; the operator alone refuses such ids, and trusts offsets.

N  ids    B  bags    D  dim, of all features side by side
"""

from typing import Any

import fbgemm_gpu.split_embedding_codegen_lookup_invokers as invokers
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor

_INVOKERS: dict[EmbOptimType, Any] = {  # of all optimizers that FBGEMM has on a CPU
    EmbOptimType.EXACT_SGD: invokers.lookup_sgd,
    EmbOptimType.EXACT_ADAGRAD: invokers.lookup_adagrad,
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: invokers.lookup_rowwise_adagrad,
}
_OTHER_NAMES = {"dev_weights": "weights_dev", "host_weights": "weights_host", "uvm_weights": "weights_uvm"}
_ABSENT = ("indices", "offsets", "indice_weights", "feature_requires_grad", "uvm_cache_stats")


class BareKernel:
    """In place of the forward pass of FBGEMM's module, whose attributes are final from the first call on. feature: by
    number; if there is one, bags are those of its table alone, whatever features they are of.
    """

    def __init__(self, module: Any, feature: int | None = None) -> None:
        assert not module._used_rowwise_adagrad_with_counter
        assert not module._used_rowwise_adagrad_with_global_weight_decay
        self.module, self._invoke, self._feature = module, _INVOKERS[module.optimizer].invoke, feature
        self._gathered: tuple[Any, dict[str, Any]] | None = None

    def __call__(self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """The sums (B, D) of the rows of all bags. Raises RuntimeError for an id that is no row."""
        assert per_sample_weights is None  # kernels are only ever asked for plain sums
        if self._gathered is None:  # not before tables have their place in memory
            self._gathered = self._gather()
        common, states = self._gathered
        offsets = offsets.to(indices.dtype)
        return self._invoke(common._replace(indices=indices, offsets=offsets), self.module.optimizer_args, **states)

    def _gather(self) -> tuple[Any, dict[str, Any]]:
        module, types = self.module, invokers.lookup_args
        found: dict[str, Any] = dict.fromkeys(_ABSENT)
        found["vbe_metadata"] = types.VBEMetadata(None, None, None)
        found["lxu_cache_locations"] = module.lxu_cache_locations_empty
        for name in set(types.CommonArgs._fields) - found.keys():
            found[name] = getattr(module, _OTHER_NAMES.get(name, name))
        states: dict[str, Any] = {}
        if module.optimizer is not EmbOptimType.EXACT_SGD:
            parts = (getattr(module, f"momentum1_{name}") for name in types.Momentum._fields)
            states["momentum1"] = types.Momentum(*parts)
        if module.optimizer is EmbOptimType.EXACT_ROWWISE_ADAGRAD:
            states["mixed_D"] = module.mixed_D
        if self._feature is not None:
            self._leave_one(found, states, self._feature)
        return types.CommonArgs(**found), states

    def _leave_one(self, found: dict[str, Any], states: dict[str, Any], feature: int) -> None:
        """Leaves of the arguments those of the table of one feature."""
        one, D_offsets = slice(feature, feature + 1), found["D_offsets"]
        dim = int(D_offsets[feature + 1] - D_offsets[feature])
        found["total_D"], found["D_offsets"] = dim, D_offsets.new_tensor([0, dim])
        rows = int(self.module.rows_per_table[feature])
        found["hash_size_cumsum"] = found["hash_size_cumsum"].new_tensor([0, rows])
        for name in ("weights_offsets", "weights_placements"):
            found[name] = found[name][one]
        if (momentum := states.get("momentum1")) is not None:
            states["momentum1"] = momentum._replace(offsets=momentum.offsets[one], placements=momentum.placements[one])
