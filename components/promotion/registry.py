"""The versions of each product: an MLflow registered model, whose files are the artifact and its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.utils import get_results_from_paginated_fn

from components.artifact import read_manifest
from components.errors import FailedError, UserError, WithdrawnError, unknown
from components.evaluation.report import Report, locked, read_report
from components.promotion import ledger, mirror, revocation
from components.promotion.copies import check_artifact, check_report, kept, report_name
from components.promotion.version import CHALLENGER, CHAMPION, Version, tags_of, version_of
from components.settings import Settings
from components.tracking import TAG, asks, experiment_of, open_client, served

PAGE = 1000


class Registry:
    """Registers, finds and fetches versions; the alias `champion` is told by the ledger, not by MLflow."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = open_client(settings)

    @asks
    def register(
        self,
        artifact: Path,
        evaluation: Path,
        run_id: str,
        tracking_run: str,
        flow_run: str = "",
        origin: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make the artifact a version of its product, with its evaluation; the newest is the challenger.

        An artifact that is registered already keeps its version and gets this evaluation. `origin` says where one
        comes from that was not trained here. Safe to repeat after an interruption. Raises `UserError` if the artifact
        is not whole, and `WithdrawnError` if its weights are those of a version that was withdrawn.
        """
        manifest = read_manifest(artifact)
        product, digest = manifest["about"]["product"], manifest["digest"]
        with ledger.locked(self.settings, f"{product}-register"):
            self.check_ledger(product)
            number = self._number(product, "digest", digest)
            if number is None:
                tags = tags_of(manifest, run_id, tracking_run, flow_run, origin)
                self._check_weights(product, tags["weights"])
                number = self._create(product, artifact, evaluation, tags)
            else:
                self._evaluate(product, number, evaluation)
            found = self._found(product)
            mirror.point(self.client, self._model(product), found, self._standing(product))
        return self.version(product, number)

    @asks
    def evaluated(self, version: Version, evaluation: Path) -> Version:
        """The version with a newer evaluation (of another dataset revision or protocol) in the place of its own."""
        with ledger.locked(self.settings, f"{version.product}-register"):
            self._evaluate(version.product, version.number, evaluation)
        return self.version(version.product, version.number)

    @asks
    def find(self, product: str, key: str) -> Version | None:
        """The newest version that the training `key` made; one that was withdrawn only where there is no other.

        Raises as `check_ledger`, before anything is trained.
        """
        self.check_ledger(product)
        revoked = self._standing(product).revoked
        numbers = self._tagged(product, "key", key)
        number = max(numbers, key=lambda one: (one not in revoked, one), default=None)
        return None if number is None else self.version(product, number)

    @asks
    def versions(self, product: str) -> list[Version]:
        """All versions, the oldest first; `UserError` if there is no such product."""
        model, standing = self._model(product), self._standing(product)
        found = [_version(found, model, standing) for found in self._found(product)]
        return sorted(found, key=lambda version: version.number)

    @asks
    def version(self, product: str, which: str | int) -> Version:
        """The version by number, or the champion or challenger; `UserError` if there is none."""
        model = self._model(product)
        number = self._resolve(model, str(which))
        try:
            found = self.client.get_model_version(product, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(str(number) for number in sorted(self._numbers(product))[-10:])
            raise UserError(f"There is no version {product}/{which}; there are: {known}.") from error
        return _version(found, model, self._standing(product))

    def named(self, reference: str) -> Version:
        """The version that `digits/3`, `digits@champion` or `digits` (its champion) names."""
        product, between, which = reference.replace("@", "/").partition("/")
        return self.version(product, which if between else CHAMPION)

    def usable(self, product: str, which: str | int) -> Version:
        """As `version`, of one that was not withdrawn; raises `WithdrawnError`."""
        found = self.version(product, which)
        revocation.check(self.settings, product, found.number)
        return found

    @asks
    def products(self) -> list[str]:
        """The names of all registered products."""
        models = _all(lambda count, token: self.client.search_registered_models(None, count, None, token))
        return sorted(model.name for model in models if f"{TAG}product" in model.tags)

    @asks
    def fetch(self, version: Version) -> Path:
        """The folder of the artifact below `home`, downloaded once and checked each time.

        A copy that was altered is fetched again; raises `UserError` if the registry's own files are, and
        `WithdrawnError` for a version that was withdrawn: all who want its weights come by here.
        """
        revocation.check(self.settings, version.product, version.number)
        folder = self.copy_of(version)

        def check(copy: Path) -> None:
            check_artifact(copy, version.digest)

        return kept(version.name, folder, check, lambda draft: self._download(version, "artifact", draft))

    def copy_of(self, version: Version) -> Path:
        """Where `fetch` keeps its copy."""
        return self.settings.home / "models" / version.product / str(version.number)

    def report(self, version: Version) -> Report:
        """The report of the version's evaluation."""
        return read_report(self.pictures(version) / "report.json")

    @asks
    def pictures(self, version: Version) -> Path:
        """The folder of the version's evaluation, report and pictures, fetched and checked as the artifact is."""
        folder = self.settings.home / "reports" / version.product / f"{version.number}-{version.evaluation}"
        source = f"evaluation/{version.evaluation}"

        def check(copy: Path) -> None:
            check_report(copy, version.evaluation)

        return kept(version.name, folder, check, lambda draft: self._download(version, source, draft))

    @asks
    def ledger_head(self, product: str) -> str:
        """The hash of the ledger line that the registry saw last, or nothing."""
        return str(self._model(product).tags.get(f"{TAG}ledger", ""))

    @asks
    def agree(self, product: str, standing: ledger.Standing, head: str) -> None:
        """Make MLflow's aliases, its tags and its memory of the ledger's last line agree with the ledger."""
        model = self._model(product)
        mirror.crown(self.client, model, standing.champion)
        if head and model.tags.get(f"{TAG}ledger") != head:
            found = self._found(product)
            mirror.mark(self.client, found, standing)
            mirror.point(self.client, model, found, standing)
            self.client.set_registered_model_tag(product, f"{TAG}ledger", head)

    @asks
    def purge(self, version: Version) -> None:
        """Delete the files of the version but for its manifest and its reports; what is gone already is no error."""
        root = self.client.get_model_version_download_uri(version.product, str(version.number))
        try:
            mirror.purge(root, self.settings.tracking)
        except OSError as error:
            raise FailedError(
                f"The files of {version.name} at {root} cannot be deleted ({error.strerror}); mend that and repeat "
                "the command."
            ) from error

    def _model(self, product: str) -> RegisteredModel:
        try:
            return self.client.get_registered_model(product)
        except MlflowException as error:
            if not error.error_code.startswith(("RESOURCE_", "INVALID_")):
                raise
            self.check_ledger(product)
            known = self.products()
            if not known:
                raise UserError(
                    f"There is no registered product “{product}” yet; make one with genloom retrain RUN."
                ) from error
            raise unknown("registered product", product, known) from error

    def _resolve(self, model: RegisteredModel, which: str) -> int:
        """The number behind a number's text or an alias."""
        if which.isascii() and which.isdigit():
            return int(which)
        if which == CHALLENGER and which in model.aliases:
            number = int(model.aliases[which])
            if number not in self._standing(model.name).revoked:
                return number
        if which == CHAMPION:
            return self._champion(model.name)
        if which == CHALLENGER:
            raise UserError(f"The product {model.name} has no challenger; train one with genloom retrain.")
        raise UserError(
            f"“{which}” names no version of {model.name}; write {model.name}/3, "
            f"{model.name}@champion or {model.name}@challenger."
        )

    def _champion(self, product: str) -> int:
        """The ledger's champion, if the registry's version of that number is the one the ledger means."""
        standing = self._standing(product)
        if not standing.champions:
            last = next((line for line in reversed(self._lines(product)) if ledger.moves(line)), None)
            if last is not None:
                raise WithdrawnError(
                    f"The product {product} has no champion: {revocation.told(last)}, and no champion before it is "
                    f"left; promote another version with genloom promote {product} --version N."
                )
            raise UserError(
                f"The product {product} has no champion yet; promote a version with genloom promote {product}."
            )
        self.check_ledger(product)
        return standing.champions[-1][0]

    @asks
    def check_ledger(self, product: str) -> None:
        """Raise `FailedError` if the champion that the ledger means is not the registry's version of that number."""
        for number, digest in self._standing(product).champions[-1:]:
            if self._number(product, "digest", digest) == number:
                return
            raise FailedError(
                f"The ledger's champion {product}/{number} ({digest[:12]}) is not in the registry; "
                "ledger and registry are from different times: restore both from one backup, or move "
                f"{ledger.path_of(self.settings, product)} away to begin anew."
            )

    def _found(self, product: str, condition: str = "") -> list[ModelVersion]:
        query = f"name = '{product}'{condition}"
        found = _all(lambda count, token: self.client.search_model_versions(query, count, page_token=token))
        return [version for version in found if f"{TAG}digest" in version.tags]

    def _numbers(self, product: str) -> list[int]:
        return [int(version.version) for version in self._found(product)]

    def _number(self, product: str, tag: str, value: str) -> int | None:
        """The newest version whose tag has that value."""
        return max(self._tagged(product, tag, value), default=None)

    def _tagged(self, product: str, tag: str, value: str) -> list[int]:
        found = self._found(product, f" AND tags.`{TAG}{tag}` = '{value}'")
        return [int(version.version) for version in found]

    def _check_weights(self, product: str, weights: str) -> None:
        """Raise `WithdrawnError` if a withdrawn version has the same weights, whatever else its manifest says."""
        revoked = self._standing(product).revoked
        same = [number for number in self._tagged(product, "weights", weights) if number in revoked]
        if same:
            raise WithdrawnError(
                f"These weights may not become a version of {product} again: {revocation.told(revoked[same[-1]])}; "
                "change the data or the settings of the run."
            )

    def _lines(self, product: str) -> list[ledger.Line]:
        return ledger.read(ledger.path_of(self.settings, product))

    def _standing(self, product: str) -> ledger.Standing:
        return ledger.standing(self._lines(product))

    def _create(self, product: str, artifact: Path, evaluation: Path, tags: Mapping[str, str]) -> int:
        """Upload, then register: a version exists only when all its files do."""
        model = self._logged_model(product, tags)
        self.client.log_model_artifacts(model.model_id, str(artifact), "artifact")
        with locked(evaluation):  # the report that is sent is the one that is named
            name = report_name(evaluation)
            self.client.log_model_artifacts(model.model_id, str(evaluation), f"evaluation/{name}")
        self.client.finalize_logged_model(model.model_id, "READY")
        try:
            self.client.create_registered_model(product, tags={f"{TAG}product": "yes"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        ours = {**tags, "evaluation": name, "model": model.model_id}
        created = self.client.create_model_version(
            product,
            model.artifact_location,
            tags["tracking_run"] or None,
            tags={f"{TAG}{key}": value for key, value in ours.items()},
            model_id=model.model_id if served(self.settings) else None,  # a database asks the global client
        )
        return int(created.version)

    def _logged_model(self, product: str, tags: Mapping[str, str]) -> LoggedModel:
        """The place of the version's files: one that an interrupted registration left, or a new one."""
        experiment = experiment_of(self.client, self.settings, product)
        condition = f"tags.`{TAG}digest` = '{tags['digest']}'"
        found = self.client.search_logged_models([experiment], condition, max_results=1)
        if found:
            return found[0]
        ours = {f"{TAG}digest": tags["digest"], f"{TAG}run_id": tags["run_id"]}
        return self.client.create_logged_model(experiment, tags["run_id"], tags["tracking_run"] or None, ours)

    def _evaluate(self, product: str, number: int, evaluation: Path) -> None:
        """Upload an evaluation to the version's files and make it the current one."""
        found = self.client.get_model_version(product, str(number))
        with locked(evaluation):
            name = report_name(evaluation)
            if found.tags[f"{TAG}evaluation"] != name:
                model = found.tags[f"{TAG}model"]
                self.client.log_model_artifacts(model, str(evaluation), f"evaluation/{name}")
                self.client.set_model_version_tag(product, str(number), f"{TAG}evaluation", name)

    def _download(self, version: Version, source: str, draft: Path) -> Path:
        """The registry's `source` of the version, a folder, copied into `draft`."""
        root = self.client.get_model_version_download_uri(version.product, str(version.number))
        uri = f"{root.rstrip('/')}/{source}"
        try:
            return Path(download_artifacts(uri, dst_path=str(draft), tracking_uri=self.settings.tracking))
        except (OSError, MlflowException) as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise UserError(f"{uri} cannot be fetched ({cause}); restore it from a backup.") from error


def _version(found: ModelVersion, model: RegisteredModel, standing: ledger.Standing) -> Version:
    number, champion = int(found.version), standing.champion
    revoked, approved = standing.revoked.get(number), standing.approved.get(number)
    aliases = {alias for alias, held in model.aliases.items() if str(held) == str(number)} - {CHAMPION}
    tags = {key.removeprefix(TAG): value for key, value in found.tags.items() if key.startswith(TAG)}
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return version_of(
        found.name,
        number,
        created,
        tags,
        aliases | ({CHAMPION} if number == champion else set()) if revoked is None else (),
        None if revoked is None else revoked.why,
        None if approved is None else approved.by,
    )


def _all(page: Callable[[int, str | None], Any]) -> list[Any]:
    """All results of a call that answers page by page."""
    return list(get_results_from_paginated_fn(page, PAGE))
