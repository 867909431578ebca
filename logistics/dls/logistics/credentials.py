"""Credentials of S3 services and HTTP servers, from where their users keep them: the environment, `~/.aws`, `~/.netrc`.

The only place beside `dls.cli.settings` that reads the environment, and only when a store is opened.  Nothing here
asks the network: instance metadata (which hangs outside a cloud), SSO and assumed roles are left to a
`credential_process`, the command that the AWS tools define for that.  Order: the profile asked for, the
environment's keys, the environment's profile, the profile `default`.

HTTP: a token in DLS_HTTP_TOKEN_<HOST> (capitals, '_' for all that is no letter or digit, the port behind it where it is
not the usual one), else user and password of that machine in `~/.netrc` (or the file NETRC); its `default` is not read.

Files: https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from dls.logistics.errors import Denied, Invalid, Unsupported
from dls.logistics.frozen import frozen

if TYPE_CHECKING:
    from configparser import RawConfigParser

_PROCESS_SECONDS = 60
_ELSEWHERE = ("sso_session", "sso_start_url", "role_arn", "web_identity_token_file", "login_session")


@frozen
class S3Credentials:
    """Who asks an S3 service, and which one.  Never printed whole: `repr` leaves the secrets out."""

    access_key: str = ""
    """'' asks anonymously (public buckets)."""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = "us-east-1"
    endpoint: str = ""
    """Address of the service, `http(s)://host[:port]`; '' is AWS."""
    ca_bundle: str = ""
    """File of trusted certificates; '' takes the system's."""
    source: str = "the program"
    """Where they were found, for messages: names of variables or of a profile, never values."""


def s3(profile: str = "", environ: Mapping[str, str] | None = None) -> S3Credentials:
    """The S3 credentials of this user.  Denied `no-credentials` says where they were sought."""
    env = os.environ if environ is None else environ
    keys = "" if profile else env.get("AWS_ACCESS_KEY_ID", "")
    named = profile or env.get("AWS_PROFILE", "")
    section = _profile(named or "default", env, must=bool(named) and not keys)
    facts = {
        "region": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or section.get("region") or "us-east-1",
        "endpoint": _endpoint(env, section),
        "ca_bundle": env.get("AWS_CA_BUNDLE") or section.get("ca_bundle", ""),
    }
    if env.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes"):
        return S3Credentials(source="nobody (AWS_SKIP_SIGNATURE is set)", **facts)
    if keys:
        return _pair(
            keys,
            env.get("AWS_SECRET_ACCESS_KEY", ""),
            env.get("AWS_SESSION_TOKEN", ""),
            "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            facts,
        )
    source = f"the profile {named or 'default'} of {_file(env, 'AWS_SHARED_CREDENTIALS_FILE', 'credentials')}"
    if section.get("aws_access_key_id"):
        return _pair(
            section["aws_access_key_id"],
            section.get("aws_secret_access_key", ""),
            section.get("aws_session_token", ""),
            source,
            facts,
        )
    if section.get("credential_process"):
        return _from_process(section["credential_process"], named or "default", facts)
    if any(name in section for name in _ELSEWHERE):
        raise Unsupported(
            f"the profile {named or 'default'} signs in by SSO or a role, which is not read here",
            code="credentials-elsewhere",
            remedy="give it `credential_process = aws configure export-credentials --format process --profile NAME`",
        )
    raise Denied(
        f"no S3 credentials: neither AWS_ACCESS_KEY_ID nor keys in {source}",
        code="no-credentials",
        remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (public data: AWS_SKIP_SIGNATURE=true)",
    )


def _pair(access: str, secret: str, token: str, source: str, facts: Mapping[str, str]) -> S3Credentials:
    if not secret:
        raise Denied(
            f"an S3 access key without its secret, from {source}",
            code="no-credentials",
            remedy="set AWS_SECRET_ACCESS_KEY beside AWS_ACCESS_KEY_ID",
        )
    if any(c.isspace() or not c.isprintable() for c in access + token):
        raise Denied(f"an S3 access key holds blanks or control characters, from {source}", code="no-credentials")
    return S3Credentials(access, secret, token, source=source, **facts)


def _endpoint(env: Mapping[str, str], section: Mapping[str, str]) -> str:
    found = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    return (found or section.get("s3.endpoint_url") or section.get("endpoint_url") or "").rstrip("/")


@frozen
class HttpCredentials:
    """Who asks which HTTP server.  Never printed whole: `repr` leaves the secrets out."""

    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Bearer tokens by the ends of their variables' names."""
    machines: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    """User and password by host."""
    ca_bundle: str = ""
    """File of trusted certificates; '' takes the system's."""
    source: str = "nobody (neither DLS_HTTP_TOKEN_… nor ~/.netrc)"
    """Where they were sought or found, for messages."""

    def header(self, host: str, port: int, usual: int) -> tuple[bytes, str]:
        """The value of the Authorization header for a server, b'' without one, and where it came from."""
        name = token_name(host, 0 if port == usual else port)
        if token := self.tokens.get(name, ""):
            return b"Bearer " + token.encode(), f"those of {_TOKEN}{name}"
        if host in self.machines:
            return b"Basic " + b64encode(":".join(self.machines[host]).encode()), f"those of ~/.netrc for {host}"
        return b"", "none"


_TOKEN = "DLS_HTTP_TOKEN_"  # noqa: S105 - the name of a variable


def token_name(host: str, port: int = 0) -> str:
    """How the variable of a server's token ends; port 0 is the usual one."""
    return re.sub(r"[^A-Z0-9]", "_", f"{host}:{port}".upper() if port else host.upper())


def http(environ: Mapping[str, str] | None = None) -> HttpCredentials:
    """The HTTP credentials of this user; none is fine, most servers want none."""
    env = os.environ if environ is None else environ
    tokens = {name.removeprefix(_TOKEN): value for name, value in env.items() if name.startswith(_TOKEN) and value}
    for name, value in tokens.items():
        if not value.isascii() or not value.isprintable() or " " in value:
            raise Denied(f"{_TOKEN}{name} holds blanks or control characters", code="no-credentials")
    home = env.get("HOME") or os.path.expanduser("~")
    path = env.get("NETRC") or os.path.join(home, ".netrc")
    machines = _machines(path) if os.path.exists(path) else {}
    found = [f"{_TOKEN}{name}" for name in sorted(tokens)] + ([path] if machines else [])
    bundle = env.get("SSL_CERT_FILE", "")
    return HttpCredentials(tokens, machines, bundle, ", ".join(found)) if found else HttpCredentials(ca_bundle=bundle)


def _machines(path: str) -> dict[str, tuple[str, str]]:
    """User and password by host, of a netrc file."""
    import netrc

    line = 0
    try:
        found = netrc.netrc(path).hosts
        return {
            host: (login or "", password or "") for host, (login, _, password) in found.items() if host != "default"
        }
    except OSError as exc:
        raise Denied(f"cannot read {path}: {exc.strerror}", code="no-credentials", remedy="check its owner") from exc
    except netrc.NetrcParseError as exc:
        line = exc.lineno or 0
    except UnicodeDecodeError:
        pass
    # Raised out here, without the parser's own error: that quotes the word, which may be a secret.
    at = f" (line {line})" if line else ""
    raise Invalid(f"{path} is not a netrc file{at}", code="bad-credentials-file", remedy="correct it")


def _file(env: Mapping[str, str], variable: str, name: str) -> str:
    home = env.get("HOME") or os.path.expanduser("~")
    path = env.get(variable) or os.path.join("~", ".aws", name)
    return os.path.join(home, path[2:]) if path.startswith("~/") else path


def _profile(name: str, env: Mapping[str, str], *, must: bool) -> dict[str, str]:
    """The settings of one profile, credentials file over config file; nested `s3 =` settings as `s3.NAME`."""
    out: dict[str, str] = {}
    config = _file(env, "AWS_CONFIG_FILE", "config")
    shared = _file(env, "AWS_SHARED_CREDENTIALS_FILE", "credentials")
    found = False
    for path, section in ((config, name if name == "default" else f"profile {name}"), (shared, name)):
        if not os.path.exists(path):
            continue
        parsed = _parsed(path)
        if parsed.has_section(section):
            found = True
            out.update((k, v) for k, v in parsed.items(section) if "\n" not in v)
            services = out.get("services", "")
            if services and parsed.has_section(f"services {services}"):
                nested = parsed.get(f"services {services}", "s3", fallback="")
                out.update((f"s3.{k}", v) for k, v in _nested(nested))
    if must and not found:
        raise Denied(f"no profile {name} in {shared} or {config}", code="no-credentials", remedy="check AWS_PROFILE")
    return out


def _nested(text: str) -> list[tuple[str, str]]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return [(k.strip(), v.strip()) for k, _, v in pairs]


def _parsed(path: str) -> RawConfigParser:
    import configparser  # 5 ms, and many sites use the environment alone

    parser = configparser.RawConfigParser(default_section="\0", strict=False)
    try:
        with open(path, encoding="utf-8") as lines:
            parser.read_file(lines)
        return parser
    except OSError as exc:
        raise Denied(f"cannot read {path}: {exc.strerror}", code="no-credentials", remedy="check its owner") from exc
    except (configparser.Error, UnicodeDecodeError) as exc:
        line = getattr(exc, "lineno", None)
    # Raised out here, without the parser's own error: that quotes the line, which may hold a secret.
    at = f" (line {line})" if line else ""
    raise Invalid(f"{path} is not a file of AWS profiles{at}", code="bad-credentials-file", remedy="correct it")


def _from_process(command: str, profile: str, facts: Mapping[str, str]) -> S3Credentials:
    """Run a profile's `credential_process`; its output is never shown."""
    import json
    import shlex
    import subprocess

    source = f"the credential_process of the profile {profile}"
    why = ""
    pair = ("", "", "")
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, timeout=_PROCESS_SECONDS, check=True)
        answer = json.loads(done.stdout)
        pair = answer["AccessKeyId"], answer["SecretAccessKey"], answer.get("SessionToken") or ""
    except subprocess.CalledProcessError as exc:
        why = f"exit status {exc.returncode}"
    except subprocess.TimeoutExpired:
        why = f"no answer in {_PROCESS_SECONDS} s"
    except OSError as exc:
        why = exc.strerror or "it does not start"
    except (ValueError, KeyError, TypeError):
        why = "its output is not what the AWS tools define"
    if why:  # raised out here, without the error met: that holds the command's output
        raise Denied(f"{source} failed: {why}", code="no-credentials", remedy="run that command by hand")
    return _pair(*pair, source, facts)
