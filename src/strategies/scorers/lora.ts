import * as z from 'zod';
import { compileGlob } from '../../core/glob.ts';
import { defineScorer } from '../strategy.ts';

const parameters = z.strictObject({
  baseModels: z
    .array(z.string().min(1).max(256))
    .max(256)
    .default([])
    .describe('models, by name or glob, that are no adapters: requests for them rate all endpoints the same'),
});

/** Rating of an endpoint without a single free slot before its share of free ones is added. */
const loadable = 0.5;
const freeSlots = 0.4;

/** Prefers endpoints that have the LoRA adapter loaded that a request asks for by its model's name. */
export const lora = defineScorer({
  type: 'lora',
  prefers: 'The endpoint that has the requested LoRA adapter loaded; else one with free slots to load it, the more the better; one whose slots are all taken by others last.',
  wrongWhen:
    'Requests are for base models: name those in baseModels, else endpoints without adapters draw them. A popular adapter stays on one endpoint unless a scorer of load is weighed beside it.',
  formula: '1 loaded; 0.5 + 0.4 × free slots / slots where it can be loaded; 0 full; 0.5 where the server does not tell',
  source: 'LoRA affinity of the Gateway API inference extension (vLLM’s lora_requests_info); spreading by free slots is Fairlead’s.',
  parameters,
  example: { baseModels: ['meta-llama/*'] },
  needs: ['model'],
  wantsMetrics: true,
  create: ({ baseModels }) => {
    const isBase = baseModels.map((glob) => compileGlob(glob));
    return (candidates, { facts: { model } }) => {
      const neutral = model === undefined || isBase.some((matches) => matches(model));
      return candidates.map(({ metrics }) => {
        if (neutral || metrics?.adapters === undefined) return 0.5;
        const { adapters, adaptersMax } = metrics;
        if (adapters.has(model)) return 1;
        if (adaptersMax === undefined) return loadable;
        const free = adaptersMax - adapters.size;
        return free <= 0 ? 0 : loadable + (freeSlots * free) / adaptersMax;
      });
    };
  },
});
