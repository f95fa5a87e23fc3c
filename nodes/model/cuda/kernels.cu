// difflow's CUDA kernels, compiled by nvrtc when a GPU is first used. What torch does in several passes over device memory, they do in one.
// Each has a version in torch's operations beside its caller (src/cuda/), which is what the self-test compares it with.
//
// A thread moves 8 neighbouring values at a time (16 bytes of bf16). Sums of a row are in fp32; sums over rows are first added up within a
// block, whose rows do not depend on timing, so the same input gives the same bits.

// No headers: nvrtc has none of its own, and libtorch does not always come with CUDA's.
typedef unsigned long long u64;
// The upper half of an fp32 number.
typedef unsigned short bf16;

constexpr int VALUES = 8;
constexpr float LOWEST = -3.4e38f;

struct Vector {
  float at[VALUES];
};

__device__ Vector load(const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ void store(float* to, const Vector& v) {
  reinterpret_cast<float4*>(to)[0] = make_float4(v.at[0], v.at[1], v.at[2], v.at[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(v.at[4], v.at[5], v.at[6], v.at[7]);
}

__device__ float widened(unsigned bits) { return __uint_as_float(bits << 16); }

// Two numbers rounded to bf16, the first in the lower half.
__device__ unsigned rounded(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

__device__ Vector load(const bf16* from) {
  const uint4 packed = *reinterpret_cast<const uint4*>(from);
  const unsigned pairs[VALUES / 2] = {packed.x, packed.y, packed.z, packed.w};
  Vector v;
#pragma unroll
  for (int i = 0; i < VALUES / 2; i++) {
    v.at[2 * i] = widened(pairs[i]);
    v.at[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
  return v;
}

__device__ void store(bf16* to, const Vector& v) {
  *reinterpret_cast<uint4*>(to) = make_uint4(rounded(v.at[0], v.at[1]), rounded(v.at[2], v.at[3]), rounded(v.at[4], v.at[5]),
                                             rounded(v.at[6], v.at[7]));
}

// The sums of two numbers over all threads of a block, in every thread. Blocks have whole warps.
__device__ float2 block_sum(float a, float b) {
  __shared__ float2 warps[32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    a += __shfl_xor_sync(~0u, a, step);
    b += __shfl_xor_sync(~0u, b, step);
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = blockDim.x / 32;
  __syncthreads();
  if (lane == 0) warps[warp] = make_float2(a, b);
  __syncthreads();
  float2 sum = make_float2(0, 0);
  for (int i = 0; i < count; i++) {
    sum.x += warps[i].x;
    sum.y += warps[i].y;
  }
  return sum;
}

// Residual and norm. sum = x + branch + bias, and normed = its LayerNorm (LAYER) or RMSNorm in bf16. One block a row, a thread 8 columns.
// branch and bias may be null, and sum with branch. statistics gets mean (0 for RMSNorm) and 1 / deviation of each row.
template <bool LAYER>
__device__ void add_norm_of(const float* x, const bf16* branch, const float* bias, const float* weight, const float* shift,
                            float* sum, bf16* normed, float2* statistics, int width, float eps) {
  const int column = threadIdx.x * VALUES;
  const bool inside = column < width;
  const size_t at = size_t(blockIdx.x) * width + column;
  Vector v = {};
  if (inside) {
    v = load(x + at);
    if (branch) {
      const Vector added = load(branch + at);
#pragma unroll
      for (int i = 0; i < VALUES; i++) v.at[i] += added.at[i];
      if (bias) {
        const Vector more = load(bias + column);
#pragma unroll
        for (int i = 0; i < VALUES; i++) v.at[i] += more.at[i];
      }
      store(sum + at, v);
    }
  }
  float mean = 0;
  if (LAYER) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < VALUES; i++) total += v.at[i];
    mean = block_sum(total, 0).x / width;
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    const float away = inside ? v.at[i] - mean : 0;
    squares += away * away;
  }
  const float inverse = rsqrtf(block_sum(squares, 0).x / width + eps);
  if (threadIdx.x == 0) statistics[blockIdx.x] = make_float2(mean, inverse);
  if (!inside) return;
  const Vector scale = load(weight + column);
  Vector moved = {};
  if (LAYER) moved = load(shift + column);
#pragma unroll
  for (int i = 0; i < VALUES; i++) v.at[i] = (v.at[i] - mean) * inverse * scale.at[i] + moved.at[i];
  store(normed + at, v);
}

// Its gradient. From those of sum (may be null) and normed: dx in fp32 and, where in_bf16 is not null, in bf16; and in partial, for each
// block, the sums over its rows of the gradients of weight, shift and bias: [blocks, 3, width].
template <bool LAYER>
__device__ void add_norm_slope_of(const float* sum, const float2* statistics, const float* weight, const float* of_sum,
                                  const bf16* of_normed, float* dx, bf16* in_bf16, float* partial, int rows, int width) {
  const int column = threadIdx.x * VALUES;
  const bool inside = column < width;
  Vector scale = {}, for_weight = {}, for_shift = {}, for_bias = {};
  if (inside) scale = load(weight + column);
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const size_t at = size_t(row) * width + column;
    const float mean = statistics[row].x, inverse = statistics[row].y;
    Vector standard = {}, slope = {};
    float plain = 0, along = 0;
    if (inside) {
      standard = load(sum + at);
      slope = load(of_normed + at);
#pragma unroll
      for (int i = 0; i < VALUES; i++) {
        standard.at[i] = (standard.at[i] - mean) * inverse;
        for_weight.at[i] += slope.at[i] * standard.at[i];
        for_shift.at[i] += slope.at[i];
        slope.at[i] *= scale.at[i];
        plain += slope.at[i];
        along += slope.at[i] * standard.at[i];
      }
    }
    const float2 both = block_sum(plain, along);
    if (!inside) continue;
    const float of_mean = LAYER ? both.x / width : 0, of_deviation = both.y / width;
    Vector out = {};
    if (of_sum) out = load(of_sum + at);
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
      out.at[i] += inverse * (slope.at[i] - of_mean - standard.at[i] * of_deviation);
      for_bias.at[i] += out.at[i];
    }
    store(dx + at, out);
    if (in_bf16) store(in_bf16 + at, out);
  }
  if (!inside) return;
  float* to = partial + size_t(blockIdx.x) * 3 * width + column;
  store(to, for_weight);
  store(to + width, for_shift);
  store(to + 2 * width, for_bias);
}

constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f;

extern "C" {

__global__ void add_layer_norm(const float* x, const bf16* branch, const float* bias, const float* weight, const float* shift,
                               float* sum, bf16* normed, float2* statistics, int width, float eps) {
  add_norm_of<true>(x, branch, bias, weight, shift, sum, normed, statistics, width, eps);
}

__global__ void add_rms_norm(const float* x, const bf16* branch, const float* bias, const float* weight, const float* shift,
                             float* sum, bf16* normed, float2* statistics, int width, float eps) {
  add_norm_of<false>(x, branch, bias, weight, shift, sum, normed, statistics, width, eps);
}

__global__ void add_layer_norm_slope(const float* sum, const float2* statistics, const float* weight, const float* of_sum,
                                     const bf16* of_normed, float* dx, bf16* in_bf16, float* partial, int rows,
                                     int width) {
  add_norm_slope_of<true>(sum, statistics, weight, of_sum, of_normed, dx, in_bf16, partial, rows, width);
}

__global__ void add_rms_norm_slope(const float* sum, const float2* statistics, const float* weight, const float* of_sum,
                                   const bf16* of_normed, float* dx, bf16* in_bf16, float* partial, int rows,
                                   int width) {
  add_norm_slope_of<false>(sum, statistics, weight, of_sum, of_normed, dx, in_bf16, partial, rows, width);
}

// Cross-entropy of a row of logits a block, [rows, stride] of which `vocabulary` count, a multiple of 8 in `stride`. Where scale is not
// null the logits become their gradient times the row's scale, 0 where they do not count.
__global__ void cross_entropy(bf16* logits, const long long* target, const float* scale, float* loss, int stride,
                              int vocabulary) {
  bf16* row = logits + size_t(blockIdx.x) * stride;
  const int wanted = int(target[blockIdx.x]);
  // exp(v − largest) is summed as the largest so far grows.
  float largest = LOWEST, sum = 0;
  for (int column = threadIdx.x * VALUES; column < stride; column += blockDim.x * VALUES) {
    const Vector v = load(row + column);
    float top = largest;
#pragma unroll
    for (int i = 0; i < VALUES; i++)
      if (column + i < vocabulary) top = fmaxf(top, v.at[i]);
    float more = 0;
#pragma unroll
    for (int i = 0; i < VALUES; i++)
      if (column + i < vocabulary) more += __expf(v.at[i] - top);
    sum = (sum > 0 ? sum * __expf(largest - top) : 0) + more;
    largest = top;
  }
  __shared__ float tops[32];
  float top = largest;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
  __syncthreads();
  top = LOWEST;
  for (int i = 0; i < int(blockDim.x) / 32; i++) top = fmaxf(top, tops[i]);
  sum = block_sum(sum > 0 ? sum * __expf(largest - top) : 0, 0).x;
  const float normaliser = top + logf(sum);
  const float of_target = widened(row[wanted]);
  if (threadIdx.x == 0) loss[blockIdx.x] = normaliser - of_target;
  if (!scale) return;
  // Every thread has read the target's logit before one writes over it.
  __syncthreads();
  const float factor = scale[blockIdx.x];
  for (int column = threadIdx.x * VALUES; column < stride; column += blockDim.x * VALUES) {
    Vector v = load(row + column);
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
      const float share = column + i < vocabulary ? __expf(v.at[i] - normaliser) : 0;
      v.at[i] = factor * (share - (column + i == wanted ? 1.0f : 0.0f));
    }
    store(row + column, v);
  }
}

// The gradient of GELU (tanh) at h, in place of that of its result, and for each block the sums over its rows: partial [gridDim.y, width].
__global__ void gelu_slope(const bf16* h, bf16* slope, float* partial, int rows, int width) {
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * VALUES;
  if (column >= width) return;
  Vector total = {};
  for (int row = blockIdx.y; row < rows; row += gridDim.y) {
    const size_t at = size_t(row) * width + column;
    const Vector v = load(h + at);
    Vector g = load(slope + at);
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
      const float x = v.at[i], inner = ROOT * (x + CUBIC * x * x * x), t = 1 - 2 / (1 + __expf(2 * inner));
      g.at[i] *= 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * ROOT * (1 + 3 * CUBIC * x * x);
      total.at[i] += g.at[i];
    }
    store(slope + at, g);
  }
  store(partial + size_t(blockIdx.y) * width + column, total);
}

// silu(gate) · up of rows [gate | up] of 2·width.
__global__ void swiglu(const bf16* both, bf16* out, u64 count, int width) {
  const u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * VALUES;
  if (at >= count) return;
  const u64 row = at / width, column = at % width;
  const Vector gate = load(both + row * 2 * width + column), up = load(both + row * 2 * width + width + column);
  Vector v;
#pragma unroll
  for (int i = 0; i < VALUES; i++) v.at[i] = gate.at[i] / (1 + __expf(-gate.at[i])) * up.at[i];
  store(out + at, v);
}

__global__ void swiglu_slope(const bf16* both, const bf16* slope, bf16* out, u64 count, int width) {
  const u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * VALUES;
  if (at >= count) return;
  const u64 row = at / width, column = at % width, to = row * 2 * width + column;
  const Vector gate = load(both + to), up = load(both + to + width), g = load(slope + at);
  Vector of_gate, of_up;
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    const float share = 1 / (1 + __expf(-gate.at[i]));
    of_up.at[i] = g.at[i] * gate.at[i] * share;
    of_gate.at[i] = g.at[i] * up.at[i] * share * (1 + gate.at[i] * (1 - share));
  }
  store(out + to, of_gate);
  store(out + to + width, of_up);
}

// Turns the pairs (i, i + size/2) of the first `turned` of `heads` heads, in place: x [tokens, heads, size], cosine and sine [.., size/2],
// of position[token], or of token % length where position is null. direction is 1, or −1 for the gradient.
__global__ void rotate(bf16* x, const float* cosine, const float* sine, const long long* position, int length, int heads,
                       int turned, int size, float direction) {
  const int half = size / 2;
  const size_t token = blockIdx.x;
  const size_t place = position ? position[token % length] : token % length;
  for (int at = threadIdx.x; at < turned * half; at += blockDim.x) {
    const int head = at / half, i = at % half;
    bf16* pair = x + (token * heads + head) * size + i;
    const float a = widened(pair[0]), b = widened(pair[half]);
    const float c = cosine[place * half + i], s = direction * sine[place * half + i];
    const unsigned both = rounded(a * c - b * s, b * c + a * s);
    pair[0] = bf16(both);
    pair[half] = bf16(both >> 16);
  }
}
}
