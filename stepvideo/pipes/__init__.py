"""StepRPC: named pipes of tensors between processes that come and go (report §6.3).

    from stepvideo.pipes.registry import open_registry        # a folder, or tcp://HOST:PORT
    from stepvideo.pipes.producer import Producer
    from stepvideo.pipes.consumer import Consumer

    with Producer(open_registry("runs/pipes"), "latents", "vae-0") as out:
        out.send({"latent": x, "text": y}, {"sample": 17})                # to one rank of every job

    with Consumer(open_registry("runs/pipes"), "latents", job="t2vi", rank=0) as source:
        for item in source:                                               # Item(producer, epoch, seq, tensors, meta)
            train(item.tensors["latent"])
            source.ack(item)                                              # until then it is the producer's to repeat

What is guaranteed: docs/pipes.md.
"""
