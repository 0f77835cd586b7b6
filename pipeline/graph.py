"""The graph of the job: one function that adds ready-made steps to a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from transforms.decode import DecodeImages
from transforms.elements import EncodedChunk, FeatureChunk, PixelChunk, Shard
from transforms.manifest import WriteManifest
from transforms.plan_file import Range, ReadPlan
from transforms.read import ReadShards
from transforms.write import WriteShards


def define(
    pipeline: beam.Pipeline,
    elements: Sequence[Shard | Range],
    plan: ReadPlan,
    read: ReadShards,
    decode: DecodeImages,
    handler: ModelHandler,
    write: WriteShards,
    manifest: WriteManifest,
) -> None:
    """Adds the job to `pipeline`; it commits shard by shard.

    ReadShards to WriteShards must stay one fused stage, so that no image and no vector is ever moved or pickled: no
    shuffle, Flatten, side input, or resource hint on a single step may come between them. Output types must be
    declared so that chunks get their own coder.
    """
    (
        pipeline
        | "Shards" >> beam.Create(elements)
        | "ReadPlan" >> beam.ParDo(plan).with_output_types(Shard)
        | "ReadShards" >> beam.ParDo(read).with_output_types(EncodedChunk)
        | "DecodeImages" >> beam.ParDo(decode).with_output_types(PixelChunk)
        | "RunInference" >> RunInference(handler.with_no_batching()).with_output_types(FeatureChunk)
        | "WriteShards" >> beam.ParDo(write).with_output_types(str)
        | "AllCommitted" >> beam.combiners.Count.Globally()
        | "WriteManifest" >> beam.ParDo(manifest).with_output_types(str)
    )
