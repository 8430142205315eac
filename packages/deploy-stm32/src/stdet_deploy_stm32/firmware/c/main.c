/* An example: from a picture in a file (binary PPM, 8 bits) to boxes on the standard output, one a line:
 * class, score, left, top, right, bottom in pixels of the picture. On a board, the picture comes from the camera. */
#include "network.h"
#include "stdet_model.h"

#include <stdio.h>

#ifndef MAX_PICTURE_BYTES
#define MAX_PICTURE_BYTES (3 * 1024 * 1024)
#endif

static uint8_t pixels[MAX_PICTURE_BYTES];
static stdet_model_input_t input[STDET_MODEL_INPUT_ELEMENTS];
static stdet_model_output_0_t output_0[STDET_MODEL_OUTPUT_0_ELEMENTS];
#if STDET_MODEL_OUTPUTS > 1
static stdet_model_output_1_t output_1[STDET_MODEL_OUTPUT_1_ELEMENTS];
#endif
static stdet_work_t work;
static stdet_detection_t found[STDET_MODEL_MAX_DETECTIONS];

static int read_picture(const char *name, stdet_picture_t *picture)
{
    FILE *file = fopen(name, "rb");
    int width, height, depth, whole = 0;
    if (!file) {
        return -1;
    }
    if (fscanf(file, "P6 %d %d %d", &width, &height, &depth) == 3 && fgetc(file) != EOF && depth == 255 && width > 0 &&
        height > 0 && width <= MAX_PICTURE_BYTES / 3 / height) {
        picture->pixels = pixels;
        picture->width = width;
        picture->height = height;
        picture->stride = 3 * width;
        whole = fread(pixels, (size_t)(3 * width), (size_t)height, file) == (size_t)height;
    }
    (void)fclose(file);
    return whole ? 0 : -1;
}

int main(int count, char **arguments)
{
    void *outputs[STDET_MODEL_OUTPUTS] = {
        output_0,
#if STDET_MODEL_OUTPUTS > 1
        output_1,
#endif
    };
    const void *readable[STDET_MODEL_OUTPUTS];
    const char *name = count > 1 ? arguments[count - 1] : "test_vector/picture.ppm";
    stdet_picture_t picture;
    stdet_geometry_t geometry;
    int32_t boxes, i;
    if (read_picture(name, &picture) || stdet_preprocess(&stdet_model, &picture, input, &geometry)) {
        (void)fprintf(stderr, "no picture of 8-bit RGB, or too large: %s\n", name);
        return 1;
    }
    if (network_run(input, outputs)) {
        (void)fprintf(stderr, "the network did not run\n");
        return 1;
    }
    for (i = 0; i < STDET_MODEL_OUTPUTS; i++) {
        readable[i] = outputs[i];
    }
    boxes = stdet_postprocess(&stdet_model, readable, &work, found);
    for (i = 0; i < boxes; i++) {
        stdet_detection_t *box = &found[i];
        stdet_to_picture(&geometry, &picture, box);
        (void)printf("%s %.4f %.3f %.3f %.3f %.3f\n", stdet_model_classes[box->label], (double)box->score,
                     (double)box->x1, (double)box->y1, (double)box->x2, (double)box->y2);
    }
    return 0;
}
