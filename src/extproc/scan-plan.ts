import type { Hash64 } from '../core/hash.ts';

/** What to read. A plan is compiled once per object (by identity): make one per configuration, not per request, and do not change it. */
export interface ScanPlan {
  /** Paths of scalar fields to read, such as `model` or `metadata.user_id`: dots descend objects, at most 4 levels. */
  readonly fields: readonly string[];
  /** Top-level keys whose value is prompt text, such as `messages`. Empty: the prompt is neither measured nor hashed. */
  readonly promptFields: readonly string[];
  /** Measure the prompt's length: then the scan must reach the end of the body, or of the limit. */
  readonly wantPromptBytes: boolean;
  /** Hash the prompt in chained blocks of this many bytes; 0: no hashing. */
  readonly prefixBlockBytes: number;
  /** Blocks hashed, at most; 0: no hashing. */
  readonly prefixBlocksMax: number;
  /** What the hashes start from; absent: zeros. */
  readonly prefixSeed?: Hash64;
  /** Bytes looked at, at most. If more would be needed, the scan ends as `over-limit`. */
  readonly scanBytesMax: number;
  /**
   * Lists of fields of which the first in order that has a value counts: once one has, those after it are not waited for. No field stands in
   * two lists. A value is a number, or a string of 1 to 256 characters.
   */
  readonly alternatives?: readonly (readonly string[])[];
  /** Go on to the end of the object though all is known, so that a field that comes a second time is noticed. */
  readonly toEnd?: boolean;
}

/** Levels of a field path. */
export const pathLevelsMax = 4;

/** A node of the tree of asked paths; the root (id 0) stands for the top-level object. Ids are in preorder. */
export interface PathNode {
  readonly id: number;
  readonly key: Buffer;
  readonly children: PathNode[];
  isField: boolean;
  isPrompt: boolean;
  /** The ids from `id` to here, exclusive, are this node and all below it. */
  idEnd: number;
}

/** A plan as the scanner follows it. */
export interface CompiledPlan {
  readonly root: PathNode;
  readonly nodes: readonly PathNode[];
  readonly idByPath: ReadonlyMap<string, number>;
  readonly fieldCount: number;
  /** What a scan begins with: copying is quicker than filling. */
  readonly noValues: readonly undefined[];
  readonly noneSettled: readonly false[];
  readonly wantPromptBytes: boolean;
  readonly wantPrefix: boolean;
  readonly toEnd: boolean;
  /** By a node's id: ids of what need not be known any more once that node has a value. */
  readonly obsolete: readonly (readonly number[] | undefined)[];
}

const compiledPlans = new WeakMap<ScanPlan, CompiledPlan>();

/** @throws RangeError if the plan is not sound. */
export function toCompiled(plan: ScanPlan): CompiledPlan {
  const known = compiledPlans.get(plan);
  if (known !== undefined) return known;
  const compiled = compilePlan(plan);
  compiledPlans.set(plan, compiled);
  return compiled;
}

function compilePlan(plan: ScanPlan): CompiledPlan {
  for (const name of ['prefixBlockBytes', 'prefixBlocksMax', 'scanBytesMax'] as const) {
    if (!Number.isSafeInteger(plan[name]) || plan[name] < 0) throw new RangeError(`${name} must be a whole number, 0 or more`);
  }
  // A tree of maps first, since ids in preorder can only be given once all paths are in.
  interface Draft {
    readonly children: Map<string, Draft>;
    isField: boolean;
    isPrompt: boolean;
  }
  const createDraft = (): Draft => ({ children: new Map(), isField: false, isPrompt: false });
  const childOf = (parent: Draft, key: string): Draft => {
    const child = parent.children.get(key) ?? createDraft();
    parent.children.set(key, child);
    return child;
  };
  const top = createDraft();
  for (const path of plan.fields) {
    const keys = path.split('.');
    if (keys.length > pathLevelsMax || keys.includes('')) {
      throw new RangeError(`field path '${path}' must have 1 to ${pathLevelsMax} keys, none of them empty`);
    }
    keys.reduce(childOf, top).isField = true;
  }
  for (const key of plan.promptFields) childOf(top, key).isPrompt = true;

  const nodes: PathNode[] = [];
  const idByPath = new Map<string, number>();
  const addNode = (draft: Draft, key: string, path: string): PathNode => {
    const node: PathNode = {
      id: nodes.length,
      key: Buffer.from(key),
      children: [],
      isField: draft.isField,
      isPrompt: draft.isPrompt,
      idEnd: 0,
    };
    nodes.push(node);
    if (node.isField) idByPath.set(path, node.id);
    for (const [childKey, child] of draft.children) {
      node.children.push(addNode(child, childKey, path === '' ? childKey : `${path}.${childKey}`));
    }
    node.idEnd = nodes.length;
    return node;
  };
  const root = addNode(top, '', '');
  const hasPrompt = plan.promptFields.length > 0;
  return {
    root,
    nodes,
    idByPath,
    fieldCount: idByPath.size,
    noValues: nodes.map(() => undefined),
    noneSettled: nodes.map(() => false),
    wantPromptBytes: plan.wantPromptBytes && hasPrompt,
    wantPrefix: hasPrompt && plan.prefixBlockBytes > 0 && plan.prefixBlocksMax > 0,
    toEnd: plan.toEnd === true,
    obsolete: findObsolete(plan.alternatives ?? [], idByPath),
  };
}

function findObsolete(alternatives: readonly (readonly string[])[], idByPath: ReadonlyMap<string, number>): (readonly number[] | undefined)[] {
  const obsolete: (readonly number[] | undefined)[] = [];
  for (const list of alternatives) {
    const ids = list.map((path) => {
      const id = idByPath.get(path);
      if (id === undefined) throw new RangeError(`alternative '${path}' is not among the fields`);
      return id;
    });
    ids.forEach((id, i) => {
      if (obsolete[id] !== undefined) throw new RangeError(`'${list[i] ?? ''}' is an alternative twice`);
      obsolete[id] = ids.slice(i + 1);
    });
  }
  return obsolete;
}
