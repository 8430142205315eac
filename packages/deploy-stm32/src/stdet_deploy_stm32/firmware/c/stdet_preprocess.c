/* A picture to the network's input: the same resampling, colour order and scaling as in training. */
#include "stdet.h"

#include <math.h>

#define MAX_SIDE 32767
#define MAX_TAPS 12 /* of the widest kernel, Lanczos of radius 5 */
#define ONE 2048    /* weights of the bilinear kernel have eleven bits, as OpenCV's have */

/* The source pixels of an output pixel along one side. */
typedef struct {
    int32_t first, count;
    int32_t low, high;        /* bilinear: weights of the two, in parts of ONE */
    float weights[MAX_TAPS];  /* area: of the first, the last, and each between */
} taps_t;

/* How one side is resampled. */
typedef struct {
    int32_t source, target; /* pixels of the picture, pixels it is resampled to */
    int32_t offset;         /* resampled pixels that are cut off before the first of the input */
    int32_t length;         /* pixels of the input that it fills */
    int area_is_linear;     /* `area` where a side grows: bilinear between other points */
    int clamp_fraction;     /* what OpenCV does at the borders along x, but not along y */
} side_t;

static int32_t limit(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int is_linear(stdet_interpolation_t interpolation, const side_t *side)
{
    return interpolation == STDET_BILINEAR || (interpolation == STDET_AREA && side->area_is_linear);
}

static double smaller_ratio(double one, double other)
{
    return one < other ? one : other;
}

/* Which part of the picture goes where. */
static void fit(const stdet_model_t *model, const stdet_picture_t *picture, side_t *x, side_t *y,
                stdet_geometry_t *geometry)
{
    const double ratio_x = (double)model->width / picture->width, ratio_y = (double)model->height / picture->height;
    double scale_x = ratio_x, scale_y = ratio_y;
    x->target = model->width;
    y->target = model->height;
    x->offset = y->offset = 0;
    if (model->resize == STDET_LETTERBOX) {
        scale_x = scale_y = smaller_ratio(ratio_x, ratio_y);
        x->target = limit((int32_t)(picture->width * scale_x), 1, model->width);
        y->target = limit((int32_t)(picture->height * scale_y), 1, model->height);
    } else if (model->resize == STDET_CROP) {
        const double ratio = ratio_x > ratio_y ? ratio_x : ratio_y;
        const double width = rint(picture->width * ratio), height = rint(picture->height * ratio);
        x->target = width < model->width ? model->width : (int32_t)width;
        y->target = height < model->height ? model->height : (int32_t)height;
        x->offset = (x->target - model->width) / 2;
        y->offset = (y->target - model->height) / 2;
        scale_x = (double)x->target / picture->width;
        scale_y = (double)y->target / picture->height;
    }
    x->source = picture->width;
    y->source = picture->height;
    x->length = limit(x->target, 1, model->width);
    y->length = limit(y->target, 1, model->height);
    x->area_is_linear = y->area_is_linear = x->target > x->source || y->target > y->source;
    x->clamp_fraction = 1;
    y->clamp_fraction = 0;
    geometry->scale_x = (float)scale_x;
    geometry->scale_y = (float)scale_y;
    geometry->offset_x = (float)-x->offset;
    geometry->offset_y = (float)-y->offset;
}

static void linear_taps(const side_t *side, int32_t at, int area, taps_t *taps)
{
    const double inverse = (double)side->target / side->source, scale = 1.0 / inverse;
    float fraction;
    int32_t first;
    if (area) {
        first = (int32_t)floor(at * scale);
        fraction = (float)((at + 1) - (first + 1) * inverse);
        fraction = fraction <= 0.0f ? 0.0f : fraction - floorf(fraction);
    } else {
        const float position = (float)((at + 0.5) * scale - 0.5);
        first = (int32_t)floorf(position);
        fraction = position - (float)first;
    }
    if (side->clamp_fraction && (first < 0 || first >= side->source - 1)) {
        first = limit(first, 0, side->source - 1);
        fraction = 0.0f;
    }
    taps->first = first;
    taps->count = 2;
    taps->low = (int32_t)rintf((1.0f - fraction) * ONE);
    taps->high = (int32_t)rintf(fraction * ONE);
}

static double sinc(double x)
{
    const double angle = 3.14159265358979323846 * x;
    return fabs(x) < 1e-12 ? 1.0 : sin(angle) / angle;
}

static double kernel_radius(stdet_interpolation_t interpolation)
{
    switch (interpolation) {
    case STDET_LANCZOS3:
        return 3.0;
    case STDET_LANCZOS5:
        return 5.0;
    case STDET_GAUSSIAN:
        return 1.5;
    default:
        return 2.0;
    }
}

/* Value of a kernel at the distance x >= 0, in pixels of the picture. */
static double kernel(stdet_interpolation_t interpolation, double x)
{
    const double radius = kernel_radius(interpolation);
    if (x >= radius) {
        return 0.0;
    }
    switch (interpolation) {
    case STDET_BICUBIC: /* Keys with a = -0.75 */
        return x < 1.0 ? (1.25 * x - 2.25) * x * x + 1.0 : ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0;
    case STDET_GAUSSIAN: /* sigma 0.5 */
        return exp(-2.0 * x * x);
    case STDET_MITCHELLCUBIC:
        return x < 1.0 ? (7.0 * x * x * x - 12.0 * x * x + 16.0 / 3.0) / 6.0
                       : (-7.0 / 3.0 * x * x * x + 12.0 * x * x - 20.0 * x + 32.0 / 3.0) / 6.0;
    default:
        return sinc(x) * sinc(x / radius);
    }
}

static void kernel_taps(const side_t *side, int32_t at, stdet_interpolation_t interpolation, taps_t *taps)
{
    const double centre = (at + 0.5) * side->source / side->target - 0.5, radius = kernel_radius(interpolation);
    int32_t first = (int32_t)ceil(centre - radius), last = (int32_t)floor(centre + radius), i;
    double sum = 0.0, weights[MAX_TAPS];
    if (interpolation != STDET_BICUBIC) { /* that one repeats the border's pixels, the others leave out what is beyond */
        first = first < 0 ? 0 : first;
        last = last > side->source - 1 ? side->source - 1 : last;
    }
    taps->first = first;
    taps->count = limit(last - first + 1, 1, MAX_TAPS);
    for (i = 0; i < taps->count; i++) {
        weights[i] = kernel(interpolation, fabs(centre - (first + i)));
        sum += weights[i];
    }
    for (i = 0; i < taps->count; i++) {
        taps->weights[i] = (float)(weights[i] / sum);
    }
}

static void area_taps(const side_t *side, int32_t at, taps_t *taps)
{
    const double scale = (double)side->source / side->target, low = at * scale;
    const double high = smaller_ratio((at + 1) * scale, side->source), sum = high - low;
    const int32_t first = (int32_t)floor(low), last = limit((int32_t)ceil(high) - 1, first, side->source - 1);
    taps->first = first;
    taps->count = last - first + 1;
    taps->weights[0] = (float)((smaller_ratio(high, first + 1.0) - low) / sum);
    taps->weights[1] = (float)((high - last) / sum);
    taps->weights[2] = (float)(1.0 / sum);
}

static void find_taps(const side_t *side, int32_t at, stdet_interpolation_t interpolation, taps_t *taps)
{
    if (interpolation == STDET_NEAREST) {
        const int64_t twice = (2 * (int64_t)at + 1) * side->source;
        taps->first = (int32_t)(twice / (2 * (int64_t)side->target));
        taps->count = 1;
        taps->weights[0] = 1.0f;
    } else if (is_linear(interpolation, side)) {
        linear_taps(side, at, interpolation == STDET_AREA, taps);
    } else if (interpolation == STDET_AREA) {
        area_taps(side, at, taps);
    } else {
        kernel_taps(side, at, interpolation, taps);
    }
}

static float weight(const taps_t *taps, int32_t i, int area)
{
    if (!area || i == 0) {
        return taps->weights[i];
    }
    return i + 1 == taps->count ? taps->weights[1] : taps->weights[2];
}

static const uint8_t *pixel_at(const stdet_picture_t *picture, int32_t x, int32_t y)
{
    return picture->pixels + (int64_t)limit(y, 0, picture->height - 1) * picture->stride +
           3 * limit(x, 0, picture->width - 1);
}

static void blend(const stdet_picture_t *picture, const taps_t *x, const taps_t *y, uint8_t pixel[3])
{
    const uint8_t *a = pixel_at(picture, x->first, y->first), *b = pixel_at(picture, x->first + 1, y->first);
    const uint8_t *c = pixel_at(picture, x->first, y->first + 1), *d = pixel_at(picture, x->first + 1, y->first + 1);
    int i;
    for (i = 0; i < 3; i++) {
        const int32_t upper = a[i] * x->low + b[i] * x->high, lower = c[i] * x->low + d[i] * x->high;
        const int32_t quarters = ((y->low * (upper >> 4)) >> 16) + ((y->high * (lower >> 4)) >> 16);
        pixel[i] = (uint8_t)((quarters + 2) >> 2);
    }
}

static void sum_up(const stdet_picture_t *picture, const taps_t *x, const taps_t *y, int area, uint8_t pixel[3])
{
    float sums[3] = {0.0f, 0.0f, 0.0f};
    int32_t i, j, k;
    for (j = 0; j < y->count; j++) {
        const float row_weight = weight(y, j, area);
        for (i = 0; i < x->count; i++) {
            const uint8_t *source = pixel_at(picture, x->first + i, y->first + j);
            const float both = row_weight * weight(x, i, area);
            for (k = 0; k < 3; k++) {
                sums[k] += both * (float)source[k];
            }
        }
    }
    for (k = 0; k < 3; k++) {
        const float rounded = rintf(sums[k]);
        pixel[k] = (uint8_t)(rounded < 0.0f ? 0.0f : rounded > 255.0f ? 255.0f : rounded);
    }
}

static void store(const stdet_model_t *model, void *input, int32_t x, int32_t y, const uint8_t values[4])
{
    int32_t channel;
    for (channel = 0; channel < model->channels; channel++) {
        const int32_t at = model->channels_last ? (y * model->width + x) * model->channels + channel
                                                : (channel * model->height + y) * model->width + x;
        const int32_t entry = 256 * channel + values[channel];
        if (model->input_type == STDET_FLOAT32) {
            ((float *)input)[at] = ((const float *)model->input_table)[entry];
        } else { /* a byte is copied, whatever its sign */
            ((uint8_t *)input)[at] = ((const uint8_t *)model->input_table)[entry];
        }
    }
}

/* Red, green, blue, alpha to the network's channels. */
static void order(stdet_color_t color, const uint8_t rgb[4], uint8_t values[4])
{
    values[0] = rgb[color == STDET_BGR ? 2 : 0];
    values[1] = rgb[1];
    values[2] = rgb[color == STDET_BGR ? 0 : 2];
    values[3] = rgb[3];
    if (color == STDET_GRAYSCALE) { /* luma of ITU-R BT.601, fifteen bits */
        values[0] = (uint8_t)((9798 * rgb[0] + 19235 * rgb[1] + 3735 * rgb[2] + 16384) >> 15);
    }
}

int stdet_preprocess(const stdet_model_t *model, const stdet_picture_t *picture, void *input,
                     stdet_geometry_t *geometry)
{
    side_t side_x, side_y;
    taps_t taps_x, taps_y;
    stdet_interpolation_t interpolation = model->interpolation;
    int32_t x, y;
    if (picture->width < 1 || picture->height < 1 || picture->width > MAX_SIDE || picture->height > MAX_SIDE) {
        return -1;
    }
    fit(model, picture, &side_x, &side_y, geometry);
    if (side_x.source == side_x.target && side_y.source == side_y.target) {
        interpolation = STDET_NEAREST; /* nothing to resample */
    }
    for (y = 0; y < model->height; y++) {
        if (y < side_y.length) {
            find_taps(&side_y, y + side_y.offset, interpolation, &taps_y);
        }
        for (x = 0; x < model->width; x++) {
            uint8_t pixel[4], values[4];
            if (y >= side_y.length || x >= side_x.length) {
                pixel[0] = pixel[1] = pixel[2] = pixel[3] = model->pad_value;
            } else {
                find_taps(&side_x, x + side_x.offset, interpolation, &taps_x);
                pixel[3] = 255; /* opaque */
                if (is_linear(interpolation, &side_x)) {
                    blend(picture, &taps_x, &taps_y, pixel);
                } else {
                    sum_up(picture, &taps_x, &taps_y, interpolation == STDET_AREA, pixel);
                }
            }
            order(model->color, pixel, values);
            store(model, input, x, y, values);
        }
    }
    return 0;
}

static float clip(float value, int32_t high)
{
    return value < 0.0f ? 0.0f : value > (float)high ? (float)high : value;
}

void stdet_to_picture(const stdet_geometry_t *geometry, const stdet_picture_t *picture, stdet_detection_t *detection)
{
    detection->x1 = clip((detection->x1 - geometry->offset_x) / geometry->scale_x, picture->width);
    detection->y1 = clip((detection->y1 - geometry->offset_y) / geometry->scale_y, picture->height);
    detection->x2 = clip((detection->x2 - geometry->offset_x) / geometry->scale_x, picture->width);
    detection->y2 = clip((detection->y2 - geometry->offset_y) / geometry->scale_y, picture->height);
}
