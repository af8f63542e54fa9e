"""Runs what the READMEs show of Kafka clients, as it stands there but for the address.

    readme.py KAFKA_ADDRESS
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["CLIENTS_BUILD"])
ADDRESS = sys.argv[1]
WANTED = {"sh": "5", "python": "b'7' b'paid'", "java": "7 shipped", "go": "7 delivered"}

JAVA = """
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

class Shown {
  public static void main(String[] args) throws Exception {
    %s
  }
}
"""
GO = """package main

import (
	"context"
	"fmt"
	"log"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
%s
}
"""


def blocks(readme):
    """The fenced blocks of the section on Kafka clients, by language: the first of each."""
    text = (ROOT / readme).read_text()
    section = next(part for part in text.split("\n## ") if "confluent_kafka" in part)
    found = {}
    for language, code in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
        found.setdefault(language, code)
    return found


def command(language, code):
    folder = BUILD / "readme"
    folder.mkdir(exist_ok=True)
    match language:
        case "sh":
            return ["bash", "-euo", "pipefail", "-c", code]
        case "python":
            return [sys.executable, "-c", code]
        case "java":
            (folder / "Shown.java").write_text(JAVA % code)
            return ["java", "-cp", f"{BUILD}/jars/*", folder / "Shown.java"]
        case "go":
            module = ROOT / "tests" / "clients" / "go"
            (folder / "main.go").write_text(GO % code)
            return ["go", "run", "-C", module, folder / "main.go"]


def main():
    english, chinese = blocks("README.md"), blocks("README.zh.md")
    failed = english != chinese
    if failed:
        print("FAIL both-readmes-show-the-same")
    for language, wanted in WANTED.items():
        code = english[language].replace("127.0.0.1:9092", ADDRESS)
        done = subprocess.run(command(language, code), capture_output=True, text=True, timeout=120)
        if done.returncode == 0 and wanted in done.stdout.splitlines():
            print("ok", language, flush=True)
        else:
            failed = True
            print(f"FAIL {language}: {' '.join((done.stdout + done.stderr).split())}", flush=True)
    sys.exit(failed)


main()
