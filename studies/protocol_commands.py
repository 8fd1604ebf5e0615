"""The commands of a protocol, as blocks of a shell: ``notebooks/dataset.ipynb`` prints them.

A test gives every one of them to the command line, and to papermill, as they are printed.
"""

import shlex

from studies.protocols import Protocol

DEVICE = "--device cuda --batch-size 1000"
RECORDS = "runs/records"


def data(protocol: Protocol) -> str:
    """Gets the data set and the classifier."""
    return block(*protocol.unpack, f"hf download {protocol.classifier_checkpoint}")


def convert(protocol: Protocol) -> str:
    """Converts the published checkpoints."""
    lines = []
    for one in protocol.purifiers:
        lines += [
            f"echo {shlex.quote(one.arguments)} > arguments.json",
            f"cpur convert {one.file} {protocol.folder}/{one.purifier} \\",
            f"  --format {one.format} --arguments arguments.json",
        ]
    return block(*lines)


def certify(protocol: Protocol) -> str:
    """Certifies with every purifier at every noise level; the first command only says what it costs."""
    names = " ".join(one.purifier for one in protocol.purifiers)
    first = protocol.purifiers[0].purifier
    return block(
        _vit(protocol),
        *_certify(protocol, first, first, f"{protocol.sigmas[0]:g}", "--estimate"),
        f"for sigma in {_words(protocol.sigmas)}; do",
        f"  for name in {names}; do",
        *_indented(_certify(protocol, "$name", "$name", "$sigma"), 4),
        "  done",
        "done",
    )


def finetune(protocol: Protocol) -> str:
    """Fine-tunes the consistency model, and certifies with the result at every noise level."""
    start, tuned = f"{protocol.folder}/consistency", "consistency-tuned"
    out = f"runs/finetuned/{protocol.dataset}"
    radii = ", ".join(f"{epsilon:g}" for epsilon in protocol.epsilons)
    return block(
        _vit(protocol),
        f"papermill notebooks/finetune.ipynb runs/finetune-{protocol.dataset}.ipynb \\",
        f"  -p preset {protocol.dataset} -p dataset {protocol.dataset} -p root {protocol.root} \\",
        f"  -p purifier consistency -p checkpoint {start} \\",
        "  -p classifier transformers -p classifier_checkpoint $VIT \\",
        f'  -y "epsilons: [{radii}]" \\',
        f"  -p device cuda -p out {out}",
        f"cp -r {out}/purifier {protocol.folder}/{tuned}",
        f"for sigma in {_words(protocol.sigmas)}; do",
        *_indented(_certify(protocol, "consistency", tuned, "$sigma"), 2),
        "done",
    )


def cascade(protocol: Protocol) -> str:
    """Certifies with all noise levels in one classifier."""
    return block(
        _vit(protocol),
        f"cpur cascade --sigmas {_words(protocol.sigmas)} --n {protocol.n} \\",
        *_shared(protocol, "consistency", "consistency-tuned"),
    )


def show(protocol: Protocol) -> str:
    """Prints the table of the paper, and makes this page anew from the records."""
    return block(
        f"cpur table --records-dir {RECORDS} --dataset {protocol.dataset} --envelope \\",
        f"  --epsilons {_words(protocol.epsilons)}",
        f"papermill notebooks/dataset.ipynb runs/{protocol.dataset}.ipynb \\",
        f"  -p dataset {protocol.dataset} -p records_dir {RECORDS}",
    )


def _certify(protocol: Protocol, purifier: str, folder: str, sigma: str, *more: str) -> list[str]:
    *lines, last = _shared(protocol, purifier, folder)
    return [f"cpur certify --sigma {sigma} --n {protocol.n} \\", *lines, " ".join([last, *more])]


def _shared(protocol: Protocol, purifier: str, folder: str) -> list[str]:
    return [
        f"  --dataset {protocol.dataset} --root {protocol.root} \\",
        f"  --subset {protocol.subset} --num-images {protocol.images} \\",
        f"  --purifier {purifier} \\",
        f"  --checkpoint {protocol.folder}/{folder} \\",
        "  --classifier transformers --classifier-checkpoint $VIT \\",
        f"  --n0 {protocol.n0} --alpha {protocol.alpha:g} --epsilons {_words(protocol.epsilons)} \\",
        f"  {DEVICE} --records-dir {RECORDS}",
    ]


def block(*lines: str) -> str:
    """Commands as a block of Markdown."""
    return "\n".join(["```", *lines, "```"])


def _vit(protocol: Protocol) -> str:
    return f"VIT={protocol.classifier_checkpoint}"


def _words(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _indented(lines: list[str], by: int) -> list[str]:
    return [" " * by + line for line in lines]
