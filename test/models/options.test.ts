import { models, seed, tensor } from '../../src'

const sizes = { layers: 1, features: 8, heads: 2 }

test('what is no option of a model is named, and so is what is missing', () => {
  const bad: [() => unknown, RegExp][] = [
    [() => new models.MLP(undefined as never), /^MLP: expected the sizes of at least two layers.*got undefined/],
    [() => new models.MLP([3]), /^MLP: expected/],
    [() => new models.CNN({ widht: 3 } as never), /^CNN: there is no option widht/],
    [() => new models.ResNet(undefined as never), /^ResNet: expected an object of options/],
    [() => new models.ResNet({ depth: 18, classes: 2, steam: 'large' } as never), /^ResNet: there is no option steam/],
    [() => new models.MobileNetV2(undefined as never), /^MobileNetV2: expected an object of options/],
    [() => new models.Mixer(undefined as never), /^Mixer: expected an object of options/],
    [() => new models.Reformer(undefined as never), /^Reformer: expected an object of options/],
    [() => new models.Transformer(undefined as never), /^Transformer: expected an object of options/],
    [() => new models.GPT(undefined as never), /^GPT: expected an object of options/],
    [() => new models.GPT({ ...sizes, vocabulary: 3, length: 4, dropuot: 0.1 } as never), /^GPT: .*dropuot/],
    [() => new models.Encoder({ ...sizes, vocabulary: 3, length: 4, class: 2 } as never), /^Encoder: .*class;/],
    [() => new models.ViT({} as never), /^ViT: image: expected/],
    [() => new models.ViT({ ...sizes, image: 8, patch: 4, classes: 2, pacth: 4 } as never), /^ViT: .*pacth/],
  ]
  for (const [make, message] of bad) expect(make).toThrow(message)
})

test('an option that is undefined is as one that is not given', () => {
  const undef = { causal: undefined, norm: undefined, eps: undefined, activation: undefined, hidden: undefined }
  const { causal: _, ...acausal } = undef
  const tokens = tensor(Int32Array.of(1, 2, 0), [1, 3])
  const text = { ...sizes, vocabulary: 3, length: 4 }
  const all: Record<string, (more: object) => unknown> = {
    GPT: (more) => new models.GPT({ ...text, ...undef, ...more }).forward(tokens).toArray(),
    Encoder: (more) => new models.Encoder({ ...text, ...undef, classes: 2, ...more }).forward(tokens).toArray(),
    Transformer: (more) =>
      new models.Transformer({ ...sizes, vocabulary: 3, ...acausal, ...more }).forward(tokens, tokens).toArray(),
  }
  const explicit: Record<string, object> = {
    GPT: { causal: true, norm: 'before' },
    Encoder: { norm: 'after', eps: 1e-12 },
    Transformer: { norm: 'after', activation: 'relu' },
  }
  const begun = (make: () => unknown): unknown => (seed(1), make())
  for (const [name, make] of Object.entries(all))
    expect([name, begun(() => make({}))]).toEqual([name, begun(() => make(explicit[name]))])
})
