"""``fedsim deploy``: from simulation to real sites."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Take a scenario to real sites: keys, server, sites, and what is wrong.", no_args_is_help=True)

Deployment = Annotated[Path, typer.Argument(metavar="DIR", help="A deployment's folder.")]
SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, such as DIR/site-a.")]
Data = Annotated[str, typer.Option(help='The site\'s records: a file, or "package.module:function" of its own.')]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def init(
    folder: Deployment,
    sites: Annotated[str, typer.Option(help="Names of the sites, separated by commas.")],
    host: Annotated[str, typer.Option(help="Under which name or address the sites reach the server.")] = "localhost",
    port: Annotated[int, typer.Option(help="The server's port.")] = 9092,
    debug: Debug = False,
) -> None:
    """Write a deployment: a certificate authority, the server's folder, one folder per site. Overwrites nothing."""
    from fedsim.deployment.folders import Address
    from fedsim.deployment.folders import init as write

    made = write(folder, [name.strip() for name in sites.split(",") if name.strip()], Address(host, port))
    print(f"{folder / 'server'}: the server's folder. Start it with: fedsim deploy server {folder}")
    for site in made:
        print(f"{site}: give this folder to the site, by a way that you both trust; it holds the site's secret key.")
    print(f"{folder / 'ca' / 'ca.key'}: signs server certificates; keep it offline.")


@app.command()
def renew(folder: Deployment, debug: Debug = False) -> None:
    """Make the server a new key and certificate by the same authority; sites need nothing new."""
    from fedsim.deployment.folders import renew as make

    print(f"{make(folder)}: renewed. Start the server again to use it.")


@app.command()
def server(
    folder: Deployment,
    listen: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Run the server's SuperLink until it is stopped."""
    from fedsim.deployment.serving import serve

    serve(folder, listen, _say)


@app.command()
def site(folder: SiteFolder, data: Data, debug: Debug = False) -> None:
    """Connect a site to its server and answer until it is stopped."""
    from fedsim.deployment.worker import work

    work(folder, data, _say)


@app.command()
def check(
    folder: SiteFolder,
    data: Annotated[str | None, typer.Option(help="The site's records, as for fedsim deploy site.")] = None,
    scenario: Annotated[Path | None, typer.Option(help="The scenario that they are for.")] = None,
    debug: Debug = False,
) -> None:
    """Say what would keep a site from taking part, one line each; exit code 1 if anything would."""
    from fedsim.deployment.checking import check_site

    failed = False
    for finding in check_site(folder, data, scenario):
        print(finding, flush=True)
        failed = failed or not finding.good
    raise SystemExit(1 if failed else 0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
