import type { SeededRng } from '../clock/seeded-rng.ts';
import { prefixBlockTokens } from '../../src/core/request-facts.ts';
import { BlockNames, chatPath, wholeBlocks, type Workload, type WorkloadRequest } from './workload.ts';

/** What a generator is asked for. */
export interface GeneratorOptions {
  readonly rng: SeededRng;
  /** Requests in all. */
  readonly requests: number;
}

/** Makes a workload; equal options, equal workload. */
interface Generator {
  /** For people. */
  readonly about: string;
  generate(options: GeneratorOptions): WorkloadRequest[];
}

/** How the sessions of a workload are; times in ms, lengths in tokens. */
interface SessionShape {
  /** System prompts to choose from: the first is the most usual. Empty: every session begins with its own text. */
  readonly systemPrompts: readonly number[];
  readonly firstPrompt: (rng: SeededRng) => number;
  readonly question: (rng: SeededRng) => number;
  readonly answer: (rng: SeededRng) => number;
  readonly turns: (rng: SeededRng) => number;
  readonly thinkMs: (rng: SeededRng) => number;
}

/** How long an answer is taken to need before its user can think about it, in ms a token; only spaces turns out. */
const answerMsPerToken = 15;

const chat: SessionShape = {
  systemPrompts: [],
  firstPrompt: (rng) => Math.min(rng.logNormal(1_800, 1), 40_000),
  question: (rng) => rng.logNormal(120, 0.8),
  answer: (rng) => Math.min(rng.logNormal(220, 0.7), 2_000),
  turns: (rng) => 1 + Math.floor(rng.exponential(5)),
  thinkMs: (rng) => 2_000 + rng.exponential(20_000),
};

/** As reported of coding agents: 195 K tokens in and 317 out (median), 96 % of the turns reuse nine tenths and more. */
const agent: SessionShape = {
  systemPrompts: [12_000],
  firstPrompt: (rng) => Math.min(rng.logNormal(150_000, 0.5), 600_000),
  question: (rng) => (rng.chance(0.04) ? rng.logNormal(30_000, 0.5) : rng.logNormal(1_500, 0.9)),
  answer: (rng) => Math.min(rng.logNormal(317, 0.8), 4_000),
  turns: (rng) => 5 + Math.floor(rng.exponential(25)),
  thinkMs: (rng) => 500 + rng.exponential(4_000),
};

/** Every generator by its name in `--trace generated:NAME`. */
export const generators = {
  'multi-turn': {
    about: 'chats of some six turns that send their whole history, no common system prompt; 4 sessions begin a second',
    generate: (options) => sessionsOf(options, chat, ({ rng }) => rng.exponential(250)),
  },
  'shared-prompts': {
    about: 'the same with six system prompts of 1 000 to 16 000 tokens, the first in half of the sessions',
    generate: (options) =>
      sessionsOf(options, { ...chat, systemPrompts: [4_096, 2_048, 16_384, 1_024, 8_192, 6_144], firstPrompt: (rng) => rng.logNormal(500, 1) }, ({ rng }) => rng.exponential(200)),
  },
  agents: {
    about: 'coding agents with contexts of 195 000 tokens (median), 96 % of the turns reuse nine tenths or more of them',
    generate: (options) => sessionsOf(options, agent, ({ rng }) => rng.exponential(12_000)),
  },
  bursts: {
    about: 'chats that begin twenty at a moment, every six seconds or so',
    generate: (options) => sessionsOf(options, chat, ({ rng, index }) => (index % 20 === 0 ? 3_000 + rng.exponential(3_000) : 0)),
  },
  spike: {
    about: 'chats at a steady rate, and eight times that rate through the fifth tenth of the time',
    generate: ({ rng, requests }) => {
      const steady = sessionsOf({ rng, requests }, { ...chat, turns: () => 1 }, () => rng.exponential(300));
      return spiked(steady, 0.4, 0.5, 8);
    },
  },
} as const satisfies Record<string, Generator>;

export type GeneratorName = keyof typeof generators;

/** Makes a workload by name. */
export function generateWorkload(name: GeneratorName, options: GeneratorOptions): Workload {
  const requests = generators[name].generate(options);
  return { name: `generated:${name}`, requests, assumptions: [`generated: ${generators[name].about}`] };
}

function sessionsOf(
  { rng, requests }: GeneratorOptions,
  shape: SessionShape,
  gapMs: (at: { readonly rng: SeededRng; readonly index: number }) => number,
): WorkloadRequest[] {
  const names = new BlockNames();
  const all: WorkloadRequest[] = [];
  let startMs = 0;
  // Sessions overlap: enough of them that the first so many requests of all are a whole.
  for (let index = 0; all.length < requests * 2; index += 1) {
    startMs += gapMs({ rng, index });
    all.push(...oneSession(rng, shape, names, `session-${index}`, startMs));
  }
  return all.sort((a, b) => a.arrivalMs - b.arrivalMs).slice(0, requests);
}

function oneSession(rng: SeededRng, shape: SessionShape, names: BlockNames, session: string, startMs: number): WorkloadRequest[] {
  const system = pickSystemPrompt(rng, shape.systemPrompts);
  const systemBlocks = system === undefined ? [] : names.of(`system ${system.index}`, wholeBlocks(system.tokens));
  const shared = systemBlocks.length;
  const requests: WorkloadRequest[] = [];
  let promptTokens = (system?.tokens ?? 0) + Math.max(1, Math.round(shape.firstPrompt(rng)));
  let arrivalMs = startMs;
  for (let turn = shape.turns(rng); turn > 0; turn -= 1) {
    const outputTokens = Math.max(1, Math.round(shape.answer(rng)));
    // The session's text only grows: its blocks keep their names from turn to turn.
    const own = names.of(session, wholeBlocks(promptTokens + outputTokens) - shared);
    const text = [...systemBlocks, ...own];
    const blocks = wholeBlocks(promptTokens);
    requests.push({
      arrivalMs,
      promptTokens,
      outputTokens,
      blockHashes: text.slice(0, blocks),
      outputBlockHashes: text.slice(blocks),
      session,
      model: undefined,
      tenant: undefined,
      path: chatPath,
    });
    promptTokens += outputTokens + Math.max(1, Math.round(shape.question(rng)));
    arrivalMs += outputTokens * answerMsPerToken + shape.thinkMs(rng);
  }
  return requests;
}

function pickSystemPrompt(rng: SeededRng, prompts: readonly number[]): { index: number; tokens: number } | undefined {
  let index = 0;
  while (index < prompts.length - 1 && rng.chance(0.5)) index += 1;
  const tokens = prompts[index];
  // Whole blocks, so that what follows does not share one with it.
  return tokens === undefined ? undefined : { index, tokens: Math.ceil(tokens / prefixBlockTokens) * prefixBlockTokens };
}

/** Squeezes arrivals so that between two shares of the time they come so many times faster than before and after. */
function spiked(requests: readonly WorkloadRequest[], from: number, to: number, factor: number): WorkloadRequest[] {
  const endMs = requests.at(-1)?.arrivalMs ?? 0;
  // Steady time that passes up to the spike's start, in it, and in all, per unit of the result's time.
  const whole = from + (to - from) * factor + (1 - to);
  const startSteady = (endMs * from) / whole;
  const endSteady = (endMs * (from + (to - from) * factor)) / whole;
  return requests.map((request) => {
    const { arrivalMs } = request;
    const squeezed =
      arrivalMs < startSteady
        ? arrivalMs
        : arrivalMs < endSteady
          ? startSteady + (arrivalMs - startSteady) / factor
          : startSteady + (endSteady - startSteady) / factor + (arrivalMs - endSteady);
    return { ...request, arrivalMs: squeezed };
  });
}
