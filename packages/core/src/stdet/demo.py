"""The config behind `stdet demo`: the whole chain on generated images, small enough for a laptop."""

DEMO_CONFIG = """\
operation_mode: chain_tqeb

general:
  project_name: demo
  saved_models_dir: st_yolodv2milli_actrelu_pt
  global_seed: 42

model:
  model_type: st_yolod
  model_name: st_yolodv2milli_actrelu_pt
  input_shape: [3, 128, 128]

dataset:
  dataset_name: synthetic
  class_names: [disc, square, triangle]
  seed: 123
  num_workers: 1
  quantization_split: 0.1
  mosaic_prob: 0.0
  degrees: 0.0

training:
  trainer_name: yolod
  batch_size: 16
  epochs: 12
  warmup_epochs: 1
  no_aug_epochs: 3
  eval_interval: 3
  print_interval: 5
  fp16: False
  optimizer:
    AdamW:
      learning_rate: 0.001

postprocessing:
  confidence_thresh: 0.01
  NMS_thresh: 0.65

benchmarking:
  board: stm32n6570-dk
  backends: [host, estimate]
"""
