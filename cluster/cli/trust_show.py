"""What ``maily trust`` shows: batches, certificates, networks, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.cli.console import out

STATES = {
    "open": "[cyan]open[/]",
    "included": "[yellow]included[/]",
    "submitted": "[yellow]submitted[/]",
    "waiting": "[yellow]waiting[/]",
    "confirmed": "[green]confirmed[/]",
    "final": "[bold green]final[/]",
    "orphaned": "[red]orphaned[/]",
    "failed": "[red]failed[/]",
    "revoked": "[bold red]revoked[/]",
}
WEI = 10**18


def batch(view: Mapping[str, Any]) -> None:
    named = f"  {escape(view['name'])}" if view["name"] else ""
    out.print(
        f"{_state(view['state'])}  [bold]{view['id']}[/]  {view['size']:,} in it{named}",
        highlight=False,
        soft_wrap=True,
    )
    if view.get("root"):
        out.print(f"[dim]root {view['root']}[/]", highlight=False, soft_wrap=True)
    _anchors(view["anchors"])
    if view.get("degraded"):
        out.print(f"[yellow]{escape(view.get('reason') or 'degraded')}[/]", soft_wrap=True)


def batches(views: Sequence[Mapping[str, Any]]) -> None:
    if not views:
        out.print("There is no batch yet: `maily trust certify` makes one.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("batch", no_wrap=True, min_width=36)  # it is to be copied
    for column in ("state", "size", "since", "name", "networks"):
        table.add_column(
            column,
            justify="right" if column == "size" else "left",
            no_wrap=column in ("state", "since"),
            overflow="fold",
        )
    for view in views:
        networks = ", ".join(f"{a['network']} {a['state']}" for a in view["anchors"])
        named = escape(view["name"]) or ("-" if view["kind"] == "campaign" else view["kind"])
        table.add_row(
            view["id"],
            _state(view["state"]),
            f"{view['size']:,}",
            str(view["state_at"])[5:16].replace("T", " "),
            named,
            escape(networks) or "-",
        )
    out.print(table)


def certificate(view: Mapping[str, Any]) -> None:
    out.print(f"{_state(view['state'])}  [bold]{view['id']}[/]", highlight=False)
    rows = [
        ("subject", view.get("subject")),
        ("date", view.get("date")),
        ("from", view.get("domain")),
        ("to", view.get("recipient_masked")),
        ("message", view.get("message_id")),
        ("place", f"{view['index']} of {view['size'] or 'an open batch'}, {view['batch']}"),
        ("as of", view["as_of"]),
    ]
    if view.get("forgotten"):
        rows.append(("forgotten", "what it told is erased; its place in the tree stays"))
    if view.get("revoked"):
        rows.append(("revoked", f"{view['revoked']['reason']}, {view['revoked']['at']}"))
    for name, value in rows:
        if value is not None:
            out.print(f"[dim]{name:<10}[/]{escape(str(value))}", highlight=False, soft_wrap=True)
    _anchors(view["anchors"])


def networks(found: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    right = ("head", "finalized", "balance", "spent today", "pending")
    for column in ("network", "chain", "health", *right, "alarms"):
        table.add_column(column, justify="right" if column in right else "left")
    for network in found["networks"]:
        healthy = "[green]well[/]" if network["healthy"] else "[red]unwell[/]"
        if network["breaker"] != "closed":
            healthy += f" [yellow]breaker {network['breaker']}[/]"
        table.add_row(
            f"[bold]{escape(network['name'])}[/]",
            str(network["chain_id"]),
            healthy,
            _number(network["head"]),
            _number(network["finalized"]),
            _coins(network["balance_wei"]),
            f"{_coins(network['spent_today_wei'])} of {_coins(network['budget_wei'])}",
            _number(network["pending"]),
            f"[yellow]{escape('; '.join(network['alarms']))}[/]" if network["alarms"] else "-",
        )
    out.print(table)
    count = len(found["networks"])
    out.print(f"[dim]A batch is final when {found['needed']} of these {count} say so.[/]")


def event(kind: str, data: Mapping[str, Any]) -> None:
    if kind == "trust.certificate":
        what = "revoked" if data.get("revoked") else "forgotten"
        out.print(f"certificate {data.get('certificate')}: {what}", highlight=False)
        return
    anchors = data.get("anchors") or ()
    told = "; ".join(
        f"{anchor['network']} {anchor['state']}"
        + (f" in block {anchor['block_number']}" if anchor.get("block_number") else "")
        for anchor in anchors
    )
    line = f"{_state(str(data.get('state')))}  {data.get('size', 0):,} in it"
    out.print(f"{line}  [dim]{escape(told)}[/]", highlight=False, soft_wrap=True)


def _anchors(anchors: Sequence[Mapping[str, Any]]) -> None:
    for anchor in anchors:
        parts = [f"[bold]{escape(anchor['network'])}[/] {_state(anchor['state'])}"]
        if anchor.get("block_number") is not None:
            parts.append(f"block {anchor['block_number']:,}")
        if anchor.get("confirmations"):
            parts.append(f"{anchor['confirmations']:,} deep")
        if anchor.get("fee_wei"):
            parts.append(f"fee {_coins(anchor['fee_wei'])}")
        if anchor.get("tx"):
            parts.append(f"[dim]{anchor['tx']}[/]")
        if anchor.get("reason"):
            parts.append(f"[yellow]{escape(anchor['reason'])}[/]")
        out.print("  " + "  ".join(parts), highlight=False, soft_wrap=True)


def _state(state: str) -> str:
    return STATES.get(state, escape(state))


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _coins(wei: int | None) -> str:
    """In whole coins, exact enough to see a fee."""
    return "-" if wei is None else f"{wei / WEI:.6g}"
