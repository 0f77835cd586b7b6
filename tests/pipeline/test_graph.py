"""The shape of the graph: one fused stage, chunks never pickled between its steps."""

import apache_beam as beam
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipeline import graph, options, plan, run
from tests import helpers
from transforms.coders import ChunkCoder

STEPS = ("ReadShards", "DecodeImages", "RunInference", "WriteShards")
DATAFLOW = ("--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver",)


def stages(tmp_path, *flags):
    """The fused stages of the job's graph, each as the list of its transforms' names."""
    pattern = helpers.write_shards(tmp_path / "in", (1, 1))
    argv = [f"--input={pattern}", f"--output={tmp_path / 'out'}", *helpers.TINY, *flags]
    config, beam_options = options.parse(argv)
    pipeline = beam.Pipeline(runner="FnApiRunner", options=beam_options)
    run.define(config, plan.make(config, "weights"), pipeline)
    context, fused = FnApiRunner().create_stages(pipeline.to_runner_api())
    return context, [[transform.unique_name for transform in stage.transforms] for stage in fused]


@pytest.mark.parametrize("flags", [(), DATAFLOW, ("--resource_hints=accelerator=type:nvidia-l4;count:1",)])
def test_reading_to_writing_is_one_fused_stage(tmp_path, flags):
    _, fused = stages(tmp_path, *flags)
    holding = [names for names in fused if any("ReadShards" in name for name in names)]
    assert len(holding) == 1
    assert all(any(name.startswith(step) for name in holding[0]) for step in STEPS)


def test_the_check_of_fusion_can_fail(tmp_path, monkeypatch):
    class Shuffled(beam.PTransform):
        def __init__(self, handler):
            super().__init__()
            self.handler = handler

        def expand(self, chunks):
            return chunks | beam.Reshuffle() | RunInference(self.handler)

    monkeypatch.setattr(graph, "RunInference", Shuffled)
    _, fused = stages(tmp_path)
    holding = [names for names in fused if any("ReadShards" in name for name in names)]
    assert not all(any(name.startswith(step) for name in holding[0]) for step in STEPS)


def test_chunks_have_their_own_coder(tmp_path):
    context, _ = stages(tmp_path)
    by_producer = {
        transform.unique_name: context.components.pcollections[output].coder_id
        for transform in context.components.transforms.values()
        for output in transform.outputs.values()
    }
    for step in ("ReadShards", "DecodeImages", "RunInference/BeamML_RunInference"):
        coder = context.components.coders[by_producer[step]]
        assert ChunkCoder.__name__.encode() in coder.spec.payload, step
