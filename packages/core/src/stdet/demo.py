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
  input_shape: [3, 96, 96]

dataset:
  dataset_name: synthetic
  class_names: [disc, triangle, cross]
  num_images: 480
  image_size: 128
  max_objects: 3
  seed: 123
  num_workers: 1
  quantization_split: 0.25
  mosaic_prob: 0.0 # a plain recipe learns these plain pictures fastest
  degrees: 0.0
  shear: 0.0
  translate: 0.0
  hsv_prob: 0.0

training:
  trainer_name: yolod
  batch_size: 16
  epochs: 21
  warmup_epochs: 1
  no_aug_epochs: 3
  eval_interval: 7
  print_interval: 5
  optimizer:
    AdamW:
      learning_rate: 0.004
      weight_decay: 5e-4

postprocessing:
  confidence_thresh: 0.01
  NMS_thresh: 0.65

quantization:
  onnx_quant_parameters:
    calibrate_method: Percentile

benchmarking:
  board: stm32n6570-dk
  backends: [host, estimate]
"""
