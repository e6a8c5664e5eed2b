"""The text files that ``fedsim deploy init`` writes beside keys and certificates."""

from __future__ import annotations

SITE_TOML = """\
# What this site allows. Only people at the site change this file; the server never sees it.
name = "{name}"                # under this name the server knows the site's key
server = "{server}"
held_back = 0.2                # share of the records that are never trained on
split_seed = {seed}   # draws which; keep it to yourselves

[policy]
scenarios = "any"              # or the digests you agreed to: ["0123456789ab"] (fedsim deploy check prints it)
models = "built-in"            # or a list; a model "package.module:Class" is only ever imported if it is listed
max_epsilon_example = 8.0      # all runs together may spend so much per record, at delta,
max_epsilon_client = 8.0       # and so much for the site as a whole, where that is what is protected
delta = 1e-5
min_noise_multiplier = 0.5     # a run with less noise is refused
trust_server = false           # true: client-level noise may be added by the server, which sees updates without it
without_privacy = false        # true: runs without any guarantee are allowed, and what they spend is infinite
send_metrics = false           # true: metrics of the held-back records are sent, without noise
"""

SITE_START = """\
#!/bin/sh
# Connects this site to its server; stop it with Ctrl-C or systemd. DATA is the site's file of records.
cd "$(dirname "$0")" || exit 1
exec fedsim deploy site . --data "${DATA:?set DATA to the file with this site's records}"
"""

SERVER_START = """\
#!/bin/sh
# Runs the SuperLink of this deployment; stop it with Ctrl-C or systemd.
cd "$(dirname "$0")/.." || exit 1
exec fedsim deploy server .
"""

UNIT = """\
[Unit]
Description=fedsim {what}
After=network-online.target
Wants=network-online.target

[Service]
WorkingDirectory={folder}
{environment}ExecStart={folder}/start.sh
Restart=on-failure
RestartSec=5
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""

DOCKERFILE = """\
# Build in a folder that holds a copy of the fedsim repository as ./fedsim:
#   docker build -f {folder}/Dockerfile -t fedsim-{what} .
# The keys stay outside the image: mount this folder.
#   docker run {mounts} fedsim-{what}
FROM python:3.11-slim
COPY fedsim /src/fedsim
RUN pip install --no-cache-dir /src/fedsim && useradd --create-home fedsim
USER fedsim
ENV FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
{command}
"""

SITE_README = """\
# Site "{name}"

This folder is all that the site needs from the operator of {server}. `site.key` and `worker.secret` are secrets: they
must reach the site by a way that you trust, and nobody else. The operator need not keep a copy.

1. Install fedsim {version} (the same version as at the server).
2. Read `site.toml` and set what your site allows.
3. `fedsim deploy check . --data FILE --scenario SCENARIO.toml` checks certificate, clock, port, key and data, and
   prints the scenario's digest, which you can write into `site.toml`.
4. `fedsim deploy site . --data FILE` connects. The site only makes outgoing connections to {server}; no port need be
   opened.

Back up `ledger.db` and `answers/`: the ledger is the site's record of all privacy that was ever spent. If it is lost,
the site no longer knows what was released, and must not take part again with the same records.
"""

SERVER_README = """\
# Server

`fedsim deploy server .` (in the folder above) runs Flower's SuperLink for the sites whose public keys are in `sites/`,
and writes the connection `{connection}` that `fedsim run SCENARIO --engine deployment --connection {connection}` uses
on this machine.

* Open port {port} to the sites, and no other. Sites may only reach Flower's Fleet API there; starting runs and
  registering sites is refused to everyone who does not connect from this machine.
* `server.key` and `runs.secret` are secrets. `../ca/ca.key` signs server certificates: keep it offline.
* Back up `superlink.db` and the folders of your runs. A site's key is revoked by deleting its file in `sites/` and
  starting the server again.
* The certificate of the server lasts {days} days; `fedsim deploy renew DIR` makes the next one.
"""
