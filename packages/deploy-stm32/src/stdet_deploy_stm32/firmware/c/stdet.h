/* From a picture to boxes around a network that somebody else runs. C99; needs <math.h>, <stdint.h> and <string.h>,
 * allocates nothing, keeps no state, and may be called from several threads with a work area each.
 *
 *   stdet_preprocess(&stdet_model, &picture, input, &geometry);
 *   ... run the network: `input` to `outputs` ...
 *   count = stdet_postprocess(&stdet_model, outputs, &work, found);
 *   for (i = 0; i < count; i++) stdet_to_picture(&geometry, &picture, &found[i]);
 *
 * `stdet_model` (stdet_model.h) is generated: it says everything that differs from model to model.
 * Compile without -ffast-math: values that are not finite are told apart from boxes.
 */
#ifndef STDET_H
#define STDET_H

#include <stdint.h>

#ifndef STDET_CANDIDATES
#define STDET_CANDIDATES 256 /* 8 bytes each; fewer means more passes over the outputs, never other boxes */
#endif

typedef enum { STDET_FLOAT32, STDET_INT8, STDET_UINT8 } stdet_type_t;

typedef enum { STDET_YOLOX, STDET_SSD } stdet_coding_t;

typedef enum {
    STDET_FIT,       /* both sides are stretched */
    STDET_LETTERBOX, /* the picture lies at the top left, the rest is padding */
    STDET_CROP       /* the centre is cut out */
} stdet_resize_t;

typedef enum {
    STDET_NEAREST,
    STDET_BILINEAR,
    STDET_BICUBIC,
    STDET_AREA,
    STDET_LANCZOS3,
    STDET_LANCZOS5,
    STDET_GAUSSIAN,
    STDET_MITCHELLCUBIC
} stdet_interpolation_t;

typedef enum { STDET_RGB, STDET_BGR, STDET_GRAYSCALE, STDET_RGBA } stdet_color_t;

/* What the numbers of a tensor mean: value = (number - zero_point) * scale; scale and zero point of a float are unused. */
typedef struct {
    stdet_type_t type;
    float scale;
    int32_t zero_point;
} stdet_format_t;

typedef struct {
    /* The input: `channels` x `height` x `width` numbers of `input_type`, channels first unless `channels_last`. */
    int32_t width, height, channels;
    int32_t channels_last;
    stdet_resize_t resize;
    stdet_interpolation_t interpolation;
    stdet_color_t color;
    uint8_t pad_value;
    stdet_type_t input_type;
    const void *input_table; /* `channels` x 256 numbers of `input_type`: what the network sees for a pixel value */

    /* The outputs: `rows` rows of the tensors `boxes_output` and `scores_output`, which may be one. */
    stdet_coding_t coding;
    int32_t rows, classes;
    int32_t boxes_output, scores_output;
    stdet_format_t boxes_format, scores_format;
    int32_t levels; /* STDET_YOLOX: maps of height / strides[l] by width / strides[l] cells, one after the other */
    const int32_t *strides;
    const float *priors; /* STDET_SSD: `rows` x 4: centre x, centre y, width, height, pixels of the input */
    float center_variance, size_variance;

    /* What a detection is. */
    float confidence; /* least score, inclusive */
    float iou;        /* the weaker of two boxes of a class that overlap by more is dropped */
    int32_t max_detections;
} stdet_model_t;

/* Three bytes a pixel: red, green, blue. */
typedef struct {
    const uint8_t *pixels;
    int32_t width, height;
    int32_t stride; /* bytes from one row to the next, at least 3 * width */
} stdet_picture_t;

/* Where the input's pixels come from: input = picture * scale + offset, pixels. */
typedef struct {
    float scale_x, scale_y, offset_x, offset_y;
} stdet_geometry_t;

typedef struct {
    float x1, y1, x2, y2; /* left, top, right, bottom */
    float score;          /* 0..1 */
    int32_t label;        /* 0-based class, background not counted */
} stdet_detection_t;

typedef struct {
    float score;
    int32_t index; /* row * classes + label */
} stdet_candidate_t;

typedef struct {
    stdet_candidate_t candidates[STDET_CANDIDATES];
} stdet_work_t;

/* Fills the network's input; returns 0, or -1 for a picture without pixels or with sides above 32767. */
int stdet_preprocess(const stdet_model_t *model, const stdet_picture_t *picture, void *input,
                     stdet_geometry_t *geometry);

/* Finds the detections, best first, in pixels of the network's input, not clipped; among equal scores the first row, then
 * the first class. `outputs` are the network's, in the order of its file, each aligned as its type demands.
 * Returns how many there are; `found` has room for max_detections. */
int32_t stdet_postprocess(const stdet_model_t *model, const void *const outputs[], stdet_work_t *work,
                          stdet_detection_t found[]);

/* Brings a detection into the pixels of the picture and clips it there. */
void stdet_to_picture(const stdet_geometry_t *geometry, const stdet_picture_t *picture, stdet_detection_t *detection);

#endif
