#pragma once
// One step of one unit of an LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000), gates in PyTorch's order:
//
//   i = sigmoid(a_i), f = sigmoid(a_f), g = tanh(a_g), o = sigmoid(a_o)     a = W_ih x + b_ih + W_hh h' + b_hh
//   c = f c' + i g,   h = o tanh(c)                                         c', h': of the step before; 0 before the first
//
// Backward, for dh and for dc from the step behind:
//   da_o = dh tanh(c) o (1 - o),   dc += dh o (1 - tanh(c)^2)
//   da_i = dc g i (1 - i),  da_f = dc c' f (1 - f),  da_g = dc i (1 - g^2),  dc' = dc f
#include "engine/math.h"

namespace pipecast {

struct LstmGates {
  float i, f, g, o;
};

HD LstmGates lstm_gates(LstmGates a) { return {sigmoid_(a.i), sigmoid_(a.f), tanh_(a.g), sigmoid_(a.o)}; }
HD float lstm_cell(const LstmGates& gates, float before) { return gates.f * before + gates.i * gates.g; }
HD float lstm_output(const LstmGates& gates, float cell) { return gates.o * tanh_(cell); }

struct LstmGradients {
  LstmGates a;   // of the sums before their functions
  float before;  // of c'
};
HD LstmGradients lstm_gradients(const LstmGates& gates, float cell, float before, float dh, float dc) {
  const auto [i, f, g, o] = gates;
  const float t = tanh_(cell);
  dc += dh * o * (1 - t * t);
  return {{dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)}, dc * f};
}

}  // namespace pipecast
