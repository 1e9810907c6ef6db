"""How fast a model parses photos on this machine, and how sure that is.

    from hp_sdk.bench.session import benchmark
    from hp_sdk.bench.setting import Options
    report = benchmark(Options(model="cihp", backends=("onnxruntime", "openvino"), batches=(1, 8)))

What is timed is `Parser.predict` from JPEG bytes in memory to label maps in memory; so the answer
is back on the host when the clock stops, whatever the device.  A configuration is one runtime, one
batch (photos in one call) and one size of photos.

* Warm-up: every photo once, then windows of five calls until the medians of three windows in a row
  lie within 5 %, for ten seconds at most; the report says if that was not reached.
* Configurations take turns of a few runs, in a random but seeded order, so that whatever drifts
  hits all alike.  The first run after a change of configuration is not counted: it brings the
  caches back, and the threads of the runtime before it to rest.
* No run is dropped.  Percentiles are by nearest rank, with 95 % intervals by order statistics,
  which assume no distribution; intervals of means and ratios are bootstrapped.  A bound that the
  runs cannot give is missing (`null`).
* Every label map of every run is compared with the first one of its photo, and the first ones with
  those of the first configuration.
* Cold starts are measured in fresh processes whose files the operating system has read before.
* The peak of the machine is the best of a few float32 matrix products in numpy.

Written as JSON, the report is (times in milliseconds, per call unless said otherwise):

    schema          "1.0"; a reader refuses another number before the point
    kind            "hp-bench"
    created         UTC, ISO 8601
    setting
      machine       processor, cores, core_quota, flags, memory_bytes, system, python, gpus,
                    driver, governor, load_average (before), peak_gflops, peak_how, versions
      model         name, version, family, head, macs (of one network input; null if the bundle's
                    card does not say), artifacts {file: sha256}
      photos        [{title, identity, count, size_hw (null: each its own)}]
      options       as given: model, backends, batches, device, precision, tta, threads, runs,
                    duration_s, cold_starts, baselines, seed, photos, sizes
    configurations  [{
      name, backend, version, provider, precision, artifact, network_hw, tta, batch, size_hw
      runs          counted ones
      warmup        {runs, settled}
      latency_ms    {p50, p90, p99, mean: {value, low, high}, std, min, max}
      throughput    {value, low, high}, images per second
      stages_ms     {decode, preprocess, infer, postprocess, other: {mean, p50}}
      overhead_share  mean of everything but the network / mean of the network
      network_gflops, peak_share  while the network runs; null without macs or on a GPU
      load_ms       in this process
      cold          {starts, import_ms, load_ms, first_ms, total_ms, peak_memory_bytes}: medians
                    over the starts, the memory their largest; null if not asked for
      outputs       {stable, runs_differing, differing_px (of the worst photo), sha256, agreement
                    (share of pixels labelled as the first configuration labels them)}
      notes         [text]
      samples_ms    every counted run, in the order in which they ran
    }]
    gpu             null, or what `hp_sdk.bench.gpu` measured by the GPU's own clock:
      name, capability
      copies_gb_per_s  {up, down, on_device} of pinned memory: the peak that shares are of
      matmul_tflops    of one large float16 product, likewise; null without torch
      sensors       {before, working, after: {sm_mhz, sm_max_mhz, memory_mhz, power_w,
                    power_limit_w, celsius}}
      rows          [{name, batch, rounds, network_ms (the engine alone, run after run),
                    network_photos_per_s, stages_ms {upload, fit, network, label, download},
                    enqueue_ms, latency_ms, overhead_ms, photos_per_s (all slots at work),
                    share_of_network, upload_gb_per_s, download_gb_per_s, upload_share,
                    download_share, network_tflops, matmul_share}]
      baselines     [{name, batch, rounds, network_ms, photos_per_s}]
      missing       {what: why it was not measured}
    comparison      null, or {base, tolerance, notes: [text], changes: [{configuration, base_ms,
                    now_ms, ratio: {value, low, high}, verdict}]}
"""
