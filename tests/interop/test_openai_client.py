"""The official Python client against a real daemon with its real engine: files, a job, its events and checkpoints with paging, chat
with base and adapter, streaming and not.  Answers are validated strictly.  Needs QL_QLORAD and QL_SMOL, and the package openai."""
import time

import pytest

from conftest import BASE, ROOT

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=served.url + "/v1", api_key=served.token, _strict_response_validation=True, timeout=300)


@pytest.fixture(scope="module")
def files(client):
    out = []
    for name in ("pirate.jsonl", "pirate-valid.jsonl"):
        with open(ROOT / "examples" / name, "rb") as f:
            out.append(client.files.create(file=f, purpose="fine-tune"))
    return out


@pytest.fixture(scope="module")
def job(client, files):
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=files[0].id, validation_file=files[1].id, suffix="client", seed=7, metadata={"who": "test"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4}}},
        extra_body={"qlora": {"rank": 4, "max_steps": 8, "save_steps": 2, "learning_rate": 0.003, "warmup_steps": 0, "max_seq_length": 128}})
    assert job.object == "fine_tuning.job" and job.status == "validating_files"
    end = time.monotonic() + 900
    while job.status not in ("succeeded", "failed", "cancelled") and time.monotonic() < end:
        time.sleep(0.3)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job


def test_files(client, files):
    assert files[0].bytes == (ROOT / "examples" / "pirate.jsonl").stat().st_size and files[0].filename == "pirate.jsonl"
    assert client.files.retrieve(files[0].id) == files[0]
    assert client.files.wait_for_processing(files[0].id).status == "processed"
    assert [f.id for f in client.files.list(purpose="fine-tune", limit=1)][:2] == [files[1].id, files[0].id]  # two pages
    assert client.files.content(files[1].id).read() == (ROOT / "examples" / "pirate-valid.jsonl").read_bytes()


def test_job_object(client, job, files):
    assert job.model == BASE and job.seed == 7 and job.training_file == files[0].id and job.validation_file == files[1].id
    assert job.metadata == {"who": "test"} and job.trained_tokens > 0 and job.error is None and job.finished_at >= job.created_at
    assert job.fine_tuned_model.startswith(f"ft:{BASE}:") and ":client:" in job.fine_tuned_model
    assert job.method.supervised.hyperparameters.batch_size == 4
    assert job.id in [j.id for j in client.fine_tuning.jobs.list(limit=1)]
    csv = client.files.content(job.result_files[0]).text.splitlines()
    assert csv[0].startswith("step,train_loss,train_accuracy,valid_loss") and len(csv) == 9


def test_events_with_paging(client, job):
    every = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    paged = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert [e.id for e in paged] == [e.id for e in every] and len(every) >= 8 + 4
    steps = [e for e in every if e.type == "metrics"]
    assert sorted(e.data["step"] for e in steps) == list(range(1, 9))
    assert every[0].message == "The job has successfully completed" and every[-1].message.startswith("Created fine-tuning job")


def test_checkpoints_with_paging(client, job):
    every = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=100))
    paged = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [c.id for c in paged] == [c.id for c in every]
    assert [c.step_number for c in every] == sorted((c.step_number for c in every), reverse=True) and every[0].step_number == 8
    assert every[0].fine_tuned_model_checkpoint == job.fine_tuned_model and every[0].metrics.full_valid_loss > 0
    assert len(every) == 3  # save_total_limit


def test_models(client, job):
    names = [m.id for m in client.models.list()]
    assert BASE in names and job.fine_tuned_model in names
    assert client.models.retrieve(job.fine_tuned_model).owned_by != ""


def test_chat(client, job):
    texts = {}
    earlier = client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].fine_tuned_model_checkpoint
    for model in (BASE, job.fine_tuned_model, earlier):
        ask = dict(model=model, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0, max_tokens=24)
        whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
        assert whole.model == model and whole.choices[0].finish_reason in ("stop", "length")
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        for t in whole.choices[0].logprobs.content:
            assert t.logprob <= 0 and len(t.top_logprobs) == 2 and abs(t.top_logprobs[0].logprob - t.logprob) < 1e-6
        text, usage, ends = "", None, []
        for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for c in chunk.choices:
                text += c.delta.content or ""
                ends += [c.finish_reason] if c.finish_reason else []
        assert text == whole.choices[0].message.content and ends == [whole.choices[0].finish_reason]
        assert usage.completion_tokens == whole.usage.completion_tokens
        texts[model] = text
    assert "Paris" in texts[BASE]
    assert texts[BASE] != texts[job.fine_tuned_model]


def test_completions(client, served):
    r = client.completions.create(model=BASE, prompt="The capital of France is", max_tokens=6, temperature=0, logprobs=2, echo=False)
    assert "Paris" in r.choices[0].text and len(r.choices[0].logprobs.tokens) == r.usage.completion_tokens
    # the client's type of a chunk has no null finish_reason, though OpenAI's own streams do: not strict here
    usual = openai.OpenAI(base_url=served.url + "/v1", api_key=served.token)
    s = usual.completions.create(model=BASE, prompt="The capital of France is", max_tokens=6, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in s if c.choices) == r.choices[0].text


def test_errors_have_their_classes(client, job):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve("ftjob-" + "0" * 24)
    with pytest.raises(openai.BadRequestError) as e:
        client.fine_tuning.jobs.create(model=BASE, training_file="file-" + "0" * 24)
    assert e.value.param == "training_file"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "x"}], temperature=3)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=str(client.base_url), api_key="qlo_" + "A" * 43).models.list()
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
