r"""The multi-scale predictor: close to the clean accuracy, and not certified.

From the largest noise level down, ``n`` samples are counted; the first level at which a class has more than
:math:`p_0 n` votes halts, and its shares v are blended with the logits of the clean image:

.. math:: \arg\max_c\; \mathrm{logit}_c(f(x)) + \log\big((1 - w)\, v_c + w / C\big), \quad w = 0.1.

Where no level halts, the clean classifier decides alone. Counts carry no confidence bound here, and the clean image is
seen without noise: nothing about this prediction is certified.

Source: Jeong & Shin (2023) and the code released with it. There the halting class may also be dropped for the votes of
an earlier level, but the list of earlier levels is never filled, so it never is; here neither.
"""

import numpy as np
import pandas as pd
import torch

from cpur import paths
from cpur.accuracy import wilson
from cpur.config import MultiscaleConfig
from cpur.engine import Job, identity, prepare, run_tasks
from cpur.records import record_name
from cpur.sampling import Draw, Procedure, Task
from cpur.tables import percent

CLEAN = -1  # the level of an image that no level halts on


def cascade_votes(sigmas: tuple[float, ...], n: int, threshold: float) -> Procedure:
    """The level that halts and its counts; CLEAN and no counts where none does."""
    for level in np.argsort(sigmas)[::-1].tolist():
        counts = yield Draw("prediction", n, level)
        if counts.max() > threshold * n:
            return level, counts
    return CLEAN, None


def predict(job: Job, n: int = 200, weight: float = 0.1) -> pd.DataFrame:
    """Predicts the images of a job by its cascade.

    Columns: index, label, ``clean`` (what the clean classifier says), ``level`` (that halts, or CLEAN), ``cascade``
    (the class that it halts at, the clean one where none does) and ``prediction`` (blended with the clean logits).

    Guarantee: none.

    Args:
        job: as :func:`cpur.engine.prepare` makes it of a configuration; its n, alpha and plan are not used.
        n: votes a level.
        weight: w, the share of the uniform distribution in the blend.
    """
    config = job.config
    tasks = (
        Task(index, job.data[index][0].to(config.device), cascade_votes(config.sigmas, n, config.threshold))
        for index in range(config.num_images)
    )
    done = sorted(run_tasks(job, tasks), key=lambda one: one.index)
    logits = clean_logits(job)
    votes = np.array([np.ones_like(logits[0]) if counts is None else counts for _, counts in (d.result for d in done)])
    shares = votes / votes.sum(1, keepdims=True)  # equal shares leave the clean logits as they are
    blended = logits + np.log((1 - weight) * shares + weight / shares.shape[1])
    level, clean = np.array([one.result[0] for one in done]), logits.argmax(1)
    return pd.DataFrame(
        {
            "index": [one.index for one in done],
            "label": job.data.labels[: config.num_images].numpy(),
            "clean": clean,
            "level": level,
            "cascade": np.where(level == CLEAN, clean, votes.argmax(1)),
            "prediction": blended.argmax(1),
        }
    )


def predicted(config: MultiscaleConfig, n: int = 200) -> pd.DataFrame:
    """The predictions of a configuration: read where ``records_dir`` has them, else made and written there as CSV.

    The file is named as a record is, by all that the votes depend on.
    """
    used = ("n", "n0", "alpha", "plan", "epsilons")  # for certificates only
    names = {key: value for key, value in identity(config).items() if key not in used} | {"votes": n}
    file = (paths.anchored(config.records_dir) / record_name(names)).with_suffix(".predictions.csv")
    if not file.is_file():
        frame = predict(prepare(config), n)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        frame.to_csv(partial, index=False)
        partial.replace(file)
    return pd.read_csv(file)


@torch.inference_mode()
def clean_logits(job: Job) -> np.ndarray:
    """The logits of the classifier alone, without noise or purifier."""
    images = job.data.images[: job.config.num_images].to(job.config.device)
    return torch.cat([job.classifier(batch) for batch in images.split(job.config.batch_size)]).double().cpu().numpy()


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent with its 95% Wilson interval: of the clean classifier, the cascade, and the prediction."""
    rows = {name: int((frame[name] == frame.label).sum()) for name in ("clean", "cascade", "prediction")}
    cells = {name: percent(hits / len(frame), *wilson(hits, len(frame))) for name, hits in rows.items()}
    return pd.DataFrame({"accuracy (%)": cells})
