"""Upload an export to the Hugging Face hub. Nothing here prints or stores a token."""

from pathlib import Path

from hydratune.errors import RunError
from hydratune.settings.secrets import mask


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload ``folder``, and return its address.

    The library reads the token from HF_TOKEN or from its own login. Raises ``RunError``.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        api = HfApi()
        created = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Fine-tuned model, exported by hydratune",
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError, ValueError) as error:
        reason = mask(" ".join(str(error).split())[:300])
        raise RunError(
            f"{folder} was written, but not uploaded to {repository}: {reason}; log in by"
            " hf auth login or set HF_TOKEN, then upload the folder:"
            f" hf upload {repository} {folder}"
        ) from error
    return str(created)
