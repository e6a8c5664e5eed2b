"""Keys and certificates of a deployment: a certificate authority of its own, the server's certificate, sites' keys."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_YEARS = 10
# Long enough for a study, short enough that a stolen key does not serve for ever.
SERVER_DAYS = 397
# A clock that is this far behind still finds a fresh certificate valid.
SKEW = timedelta(minutes=10)


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate, both PEM."""

    key: bytes
    certificate: bytes


def make_authority(now: datetime | None = None) -> Pair:
    """A certificate authority that signs nothing but this deployment's servers."""
    key, began = ec.generate_private_key(ec.SECP384R1()), now or datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedsim deployment authority")])
    builder = _builder(name, name, key.public_key(), (began, timedelta(days=365 * AUTHORITY_YEARS)))
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Pair(_pem(key), builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))


def make_server_certificate(authority: Pair, host: str, now: datetime | None = None) -> Pair:
    """The server's key and certificate for ``host``, localhost and 127.0.0.1, signed by the authority."""
    signer = load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key, began = ec.generate_private_key(ec.SECP384R1()), now or datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    builder = _builder(name, issuer.subject, key.public_key(), (began, timedelta(days=SERVER_DAYS)))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return Pair(_pem(key), builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM))


def make_site_key() -> tuple[bytes, bytes]:
    """A site's private and public key in OpenSSH's format (P-384), by which Flower knows a SuperNode."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def public_key_of(private: bytes) -> bytes:
    """The public key of a site's private key, as Flower registers it (PEM); raises ValueError."""
    key = load_ssh_private_key(private, None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def registered_key(public: bytes) -> bytes:
    """A site's public key as Flower registers it (PEM); raises ValueError."""
    return load_ssh_public_key(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, valid: tuple[datetime, timedelta]
) -> x509.CertificateBuilder:
    began, lasts = valid
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(began - SKEW).not_valid_after(began + lasts)


def _usage(**on: bool) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: on.get(name, False) for name in every})


def _names(host: str) -> list[x509.GeneralName]:
    """What the certificate is for; an address is named as one, or TLS would not take it."""
    found: dict[str, x509.GeneralName] = {}
    for name in (host, "localhost", "127.0.0.1"):
        try:
            found[name] = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            found[name] = x509.DNSName(name)
    return list(found.values())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
