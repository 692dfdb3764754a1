"""Have an email written and watch it being written: ``python watch_task.py "Spring sale"``.

Takes the address from ``MAILY_URL`` (default http://127.0.0.1:8000) and the API key from
``MAILY_API_KEY``. Pull the plug while it runs: it goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
import sys

import httpx
from maily_streams import Streams


async def main(goal: str) -> None:
    url = os.environ.get("MAILY_URL", "http://127.0.0.1:8000")
    key = os.environ["MAILY_API_KEY"]
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as http:
        answer = await http.post("/v1/mesh/tasks", json={"brief": {"goal": goal}})
        answer.raise_for_status()
        task = answer.json()["id"]
    async with Streams(url, key) as streams:
        async for event in streams.task(task):
            if event["type"] == "tokens":
                print(event["data"]["text"], end="", flush=True)
            else:
                print(f"\n[{event['type']}]", event["data"].get("step", ""))


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "Invite our customers to the spring sale"))
