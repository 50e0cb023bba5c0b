// The loop of derivatives.py over samples in one call, so that its threads do not wait for Python's lock between them.

#include <cstdint>
#include <cstring>

using InverseFD = void (*)(const void* model, void* data, double epsilon, unsigned char actuation, double* of_position,
                           double* of_velocity, double* of_acceleration, double*, double*, double*, double*);

struct Samples {
    int64_t first, stride, end, nv;
    int64_t size[3];         // numbers of a position, a velocity and an acceleration
    const double* given[3];  // of all samples
    double* data[3];         // of the simulation
    double* found[3];        // nv x nv of all samples
};

extern "C" void linearise(InverseFD inverse_fd, const void* model, void* data, double epsilon, const Samples* samples) {
    const Samples& s = *samples;
    for (int64_t i = s.first; i < s.end; i += s.stride) {
        for (int k = 0; k < 3; ++k) std::memcpy(s.data[k], s.given[k] + i * s.size[k], s.size[k] * sizeof(double));
        const int64_t at = i * s.nv * s.nv;
        inverse_fd(model, data, epsilon, 0, s.found[0] + at, s.found[1] + at, s.found[2] + at, nullptr, nullptr, nullptr,
                   nullptr);
    }
}
