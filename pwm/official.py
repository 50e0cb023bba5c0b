"""Official checkpoints of TD-MPC2 and PWM in `WorldModel`, and ours in TD-MPC2's layout.

Key map; i counts layers from 0, `.linear` and `.norm` are missing here where a network ends in a plain linear layer:

| `WorldModel` | TD-MPC2 |
|---|---|
| `task_embedding.weight`, `action_mask` | `_task_emb.weight`, `_action_masks` (recent files only, compared) |
| `encoder.i.linear.*`, `encoder.i.norm.*` | `_encoder.state.i.*`, `_encoder.state.i.ln.*`; in PWM's `_encoder.i…` |
| `dynamics.i…`, `reward_head.i…`, `policy_prior.i…` | `_dynamics.i…`, `_reward.i…`, `_pi.i…`, as for the encoder |
| `q_heads.layers.i…` [K, in, out] and [K, 1, out] | `_Qs.params.i…` [K, out, in] and [K, out] |
| `target_q_heads.layers.i…`, the same | `_target_Qs_params.i…`, for a while also `_target_Qs.params.i…` |

The files that TD-MPC2 and PWM released are of an older layout, which we also write: `_Qs.params.n` and
`_target_Qs.params.n` with n = 4 i + (0 weight, 1 bias, 2 ln.weight, 3 ln.bias). Left out on reading are copies and
placeholders (`_detach_Qs…`, `_Qs.module…`, `_target_Qs.module…`), entries of tensordict (`…__batch_size`,
`…__device`) and a termination head (`_termination…`); a model without Q-functions leaves out those and the prior too.

TD-MPC2's file holds these keys under `model`, PWM's under `world_model` beside a running mean and variance of rewards
(`rew_rms`). PWM's scalar head predicts (r − mean) / √(variance + 1e-5); ours r / `reward_scale`, so the mean goes into
its bias. A few of TD-MPC2's first files (`_encoder.state.1` before any `_encoder.state.0`) are refused: their encoder
begins with a layer without weights which is documented nowhere. Tasks must stand in the checkpoint's order.

python -m pwm.official import --config config.yaml --checkpoint mt30-48M.pt --out FOLDER
python -m pwm.official export --model FOLDER --out model.pt
"""

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pwm import config, runs
from pwm.config import ModelConfig
from pwm.errors import UserError, exit_on_user_error
from pwm.nn.world_model import LOG_STD_MAX, LOG_STD_MIN, WorldModel
from pwm.pretrain import build_model, load_model

NETWORKS = {
    "encoder": "_encoder.state",
    "dynamics": "_dynamics",
    "reward_head": "_reward",
    "policy_prior": "_pi",
    "q_heads.layers": "_Qs.params",
    "target_q_heads.layers": "_target_Qs_params",
}
PARTS = ("weight", "bias", "ln.weight", "ln.bias")  # in the order in which the older layout counts them
LEFT_OUT = re.compile(r"_detach_Qs|_(target_)?Qs\.module\.|_termination\.|.*__(batch_size|device)$")
VALUE_NETWORKS = ("_pi.", "_Qs.params.", "_target_Qs_params.")
CONSTANTS = {"log_std_min": LOG_STD_MIN, "log_std_dif": LOG_STD_MAX - LOG_STD_MIN}


class _RunningMeanStd:
    """Stands in for PWM's class of that name: torch fills in its attributes and runs none of its code."""


def _official_key(ours: str) -> str | None:
    """The key of TD-MPC2's current layout for one of `WorldModel`'s; None where it has none."""
    if ours == "task_embedding.weight":
        return "_task_emb.weight"
    match = re.fullmatch(r"(\w+(?:\.layers)?)\.(\d+)\.(?:(linear|norm)\.)?(weight|bias)", ours)
    if not match:
        return None
    network, layer, kind, part = match.groups()
    return f"{NETWORKS[network]}.{layer}.{'ln.' if kind == 'norm' else ''}{part}"


def _current_key(key: str) -> str:
    """A key of an older layout, or of PWM's, as TD-MPC2 names it now."""
    key = re.sub(r"^_encoder\.(\d+)\.", r"_encoder.state.\1.", key)
    if match := re.fullmatch(r"(_Qs|_target_Qs)\.params\.(\d+)", key):
        prefix = "_Qs.params" if match[1] == "_Qs" else "_target_Qs_params"
        return f"{prefix}.{int(match[2]) // 4}.{PARTS[int(match[2]) % 4]}"
    return key.replace("_target_Qs.params.", "_target_Qs_params.")


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    """The world model's entries of an official file, and PWM's statistics of rewards where it has some."""
    known = [(_RunningMeanStd, "pwm.utils.running_mean_std.RunningMeanStd")]
    try:
        with torch.serialization.safe_globals(known):
            file = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; check the path") from None
    except Exception as error:  # torch raises many kinds for files that are damaged or not its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason}); give a .pt file of TD-MPC2 or PWM") from None
    if isinstance(file, dict):
        entries = file.get("model", file.get("world_model", file))
        if isinstance(entries, dict) and any(str(key).startswith("_encoder.") for key in entries):
            return entries, file.get("rew_rms")
    raise UserError(f"{path}: key '_encoder.…' is missing; give a .pt file of TD-MPC2 or PWM")


def load_official(path: Path, model: WorldModel) -> dict[str, Tensor]:
    """The state dict for `model` in an official checkpoint.

    Args:
        path: a .pt file of TD-MPC2 or PWM, of any layout above.
        model: of the checkpoint's sizes and tasks; its own weights are not read.

    Raises:
        UserError: the file is damaged, of another layout, size or task set; one line that names the first such key.
    """
    entries, rewards = _read(path)
    if "_encoder.state.1.weight" in entries and "_encoder.state.0.weight" not in entries:
        raise UserError(
            f"{path}: key '_encoder.state.0.weight' is missing: a layout from before the release; use another"
        )
    found = {_current_key(key): value for key, value in entries.items() if not LEFT_OUT.match(key)}
    if not model.config.num_q:
        found = {key: value for key, value in found.items() if not key.startswith(VALUE_NETWORKS)}
    for key, constant in CONSTANTS.items():
        if float(found.pop(key, constant)) != constant:
            raise UserError(f"{path}: key '{key}' is not {constant}; such a policy prior is not supported")
    mask = found.pop("_action_masks", None)
    state = model.state_dict()
    if mask is not None and not torch.equal(mask, state["action_mask"].to(mask)):
        raise UserError(f"{path}: key '_action_masks' is of other tasks; give the settings the checkpoint's tasks")
    loaded = {"action_mask": state["action_mask"], "reward_scale": torch.ones_like(state["reward_scale"])}
    for name in [name for name in state if name not in loaded]:
        loaded[name] = _take(path, found, name, state[name])
    if found:
        raise UserError(f"{path}: key '{min(found)}' has no place in the model; check size, tasks and variant")
    if isinstance(rewards, _RunningMeanStd) and not model.config.reward_bins:
        scale = torch.sqrt(rewards.var.float().reshape(()) + 1e-5)
        last = f"reward_head.{len(model.config.units)}.bias"
        loaded |= {
            "reward_scale": scale.expand_as(state["reward_scale"]).clone(),
            last: loaded[last] + rewards.mean.float().reshape(()) / scale,
        }
    return loaded


def _take(path: Path, found: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Remove from `found` what belongs to our `name`, in our shape."""
    key = _official_key(name)
    if not isinstance(found.get(key), Tensor):
        raise UserError(f"{path}: key '{key or name}' is missing; check size, tasks and variant of the settings")
    value = found.pop(key)
    if name.split(".")[1] == "layers":
        value = value.mT if value.ndim == 3 else value.unsqueeze(1)
    if value.shape != like.shape:
        sizes = f"{list(value.shape)} where the model has {list(like.shape)}"
        raise UserError(f"{path}: key '{key}' is {sizes}; check size and tasks of the settings")
    return value.to(like.dtype).contiguous()


def to_official(model: WorldModel) -> dict[str, dict[str, Tensor]]:
    """What to save as a .pt file for TD-MPC2: the layout of its released checkpoints.

    Raises:
        UserError: the model is of a variant, or has no Q-functions, or a scalar reward, which TD-MPC2 does not know.
    """
    own = model.config
    variant = (own.latent, own.layer_norm, own.activation, own.standardise_obs)
    if not own.num_q or variant != ("simnorm", True, "mish", False):
        raise UserError("TD-MPC2 has no model without Q-functions or of a variant; export one of the multi-task sizes")
    official = {}
    for name, value in model.state_dict().items():
        key = _official_key(name)
        if key is None:
            continue
        if match := re.fullmatch(r"_(target_)?Qs[._]params\.(\d+)\.(.+)", key):
            value = value.mT if match[3] == "weight" else value.squeeze(1)
            key = f"_{match[1] or ''}Qs.params.{4 * int(match[2]) + PARTS.index(match[3])}"
        official[key] = value.detach().cpu().contiguous()
    return {"model": official}


def import_checkpoint(config_path: Path, checkpoint: Path, out: Path) -> None:
    """Write an official checkpoint as stage `pretrain` would have written its model.

    Args:
        config_path: a world model's config.yaml, which says what the checkpoint's sizes and tasks are.
        checkpoint: the .pt file.
        out: the model's folder.
    """
    model_config = config.load(ModelConfig, config_path)
    tensors = load_official(checkpoint, build_model(model_config.settings, model_config.tasks))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    runs.Run(out, model_config).finish(Path(), tensors, source=checkpoint.name, source_sha256=digest)


def export_checkpoint(folder: Path, out: Path) -> None:
    """Write the model in `folder` as a .pt file that TD-MPC2 loads."""
    model, _ = load_model(folder)
    temporary = out.with_name(out.name + ".tmp")
    torch.save(to_official(model), temporary)
    temporary.replace(out)


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.official", description="TD-MPC2's and PWM's checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("import", help="make a world model of an official checkpoint")
    reading.add_argument(
        "--config", type=Path, required=True, help="config.yaml of a world model of its size and tasks"
    )
    reading.add_argument("--checkpoint", type=Path, required=True)
    reading.add_argument("--out", type=Path, required=True)
    writing = commands.add_parser("export", help="write a world model for TD-MPC2")
    writing.add_argument("--model", type=Path, required=True, help="folder of the world model")
    writing.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "import":
        import_checkpoint(args.config, args.checkpoint, args.out)
    else:
        export_checkpoint(args.model, args.out)


if __name__ == "__main__":
    main()
