"""The settings of fetching."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from transforms.storage.stores import SCHEMES

AGENT_TOKEN = "bit-features"  # how robots rules can name this program


@dataclass(frozen=True)
class FetchSettings:
    """Limits and permissions of a `Fetcher`. Picklable; refuses impossible values with ValueError.

    Attributes:
      timeout_seconds: per image, from its first packet on, redirects, retries and waits included.
      retries: further attempts after a transient failure.
      max_bytes: of the encoded image, also after decoding a Content-Encoding.
      concurrency: threads that call `Fetcher.fetch` at once; sizes the connection pools.
      per_host: images fetched at once per http(s) host.
      max_redirects: redirects followed per image.
      uri_schemes: the only schemes fetched; a plain local path counts as 'file'.
      allow_private_networks: CIDRs that http(s) may reach although they are not public.
      user_agent_contact: URL or mail address in the User-Agent, for site owners to reach the operator.
      honour_opt_out: refuse images whose X-Robots-Tag says noai, noimageai, noindex, noimageindex or none.
      trust_env_proxies: send http(s) through HTTP_PROXY and HTTPS_PROXY; the proxy must then guard addresses.
      backoff_seconds: the wait before the first retry; it doubles with each further retry.
    """

    timeout_seconds: float = 30
    retries: int = 3
    max_bytes: int = 64 << 20  # 64 MiB
    concurrency: int = 32
    per_host: int = 8
    max_redirects: int = 5
    uri_schemes: tuple[str, ...] = (*SCHEMES, "http", "https", "data")
    allow_private_networks: tuple[str, ...] = ()
    user_agent_contact: str = ""
    honour_opt_out: bool = True
    trust_env_proxies: bool = False
    backoff_seconds: float = 0.5

    def __post_init__(self):
        for name in ("timeout_seconds", "max_bytes", "concurrency", "per_host", "backoff_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")
        for name in ("retries", "max_redirects"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        for cidr in self.allow_private_networks:
            try:
                ipaddress.ip_network(cidr)
            except ValueError as error:
                raise ValueError(
                    f"allow_private_networks takes CIDRs like 10.0.0.0/8, got {cidr!r}: {error}"
                ) from None
        contact = self.user_agent_contact
        if not (contact.isascii() and (contact.isprintable() or not contact)):
            raise ValueError(f"user_agent_contact must be printable ASCII, got {contact!r}")

    @property
    def connect_seconds(self) -> float:
        """The time limit of one name lookup, and of one connection, over all of a host's addresses."""
        return min(10.0, self.timeout_seconds / 3)

    @property
    def read_seconds(self) -> float:
        """The longest silence between two packets."""
        return min(15.0, self.timeout_seconds / 2)

    @property
    def user_agent(self) -> str:
        """The User-Agent header: AGENT_TOKEN and the contact, if set."""
        return f"{AGENT_TOKEN} (+{self.user_agent_contact})" if self.user_agent_contact else AGENT_TOKEN
