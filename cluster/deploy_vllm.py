"""Put one vLLM engine onto Ray: ``python -m cluster.deploy_vllm NAME``.

A driver of its own, run with the interpreter of the environment that holds vLLM: what
``ray.serve.llm`` imports need not be installed where the rest runs. It ends with 0 once Serve has
the application; its last line on standard error says what went wrong.
"""

from __future__ import annotations

import os
import sys
import traceback

from actors.names import NAMESPACE, engine_app
from cluster import loopback
from mesh.core.settings import SETTINGS_VARIABLE, Settings, settings_from_json
from mesh.llm.store import ModelStore


def deploy(settings: Settings, name: str) -> None:
    """Raises what went wrong: an unknown engine, a model that is not in the store, vLLM's own."""
    engine = settings.llm.engine_table()[name]
    store = ModelStore(settings.store_directory)
    model = hub_repository(engine.source) or str(store.require(engine.source))
    adapters = {key: store.require(source) for key, source in engine.vllm.adapters.items()}
    loopback.apply()
    import ray
    from ray import serve

    from serve_apps.llm.vllm_service import build_vllm_app

    ray.init(
        address=settings.ray.address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
    )
    app = build_vllm_app(
        name,
        engine,
        model=model,
        adapters=adapters,
        observability=settings.observability,
    )
    # Without a route: the gateway is the only edge. Its replicas load for a minute or for many:
    # routes go around them meanwhile.
    target = serve.RunTarget(app, name=engine_app(name, engine.kind), route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)


def hub_repository(source: str) -> str | None:
    """``hf:ORG/REPO`` without a file: vLLM fetches the whole repository itself, on each node."""
    scheme, _, rest = source.partition(":")
    return rest if scheme == "hf" and "#" not in rest else None


def main(name: str) -> None:
    try:
        deploy(settings_from_json(os.environ[SETTINGS_VARIABLE]), name)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    # Ray's own exit would wait for what it holds; what it deployed lives on regardless.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
