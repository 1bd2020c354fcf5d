// Reads the interfaces of a TypeScript file, so that a test can compare hand-written types with what they describe.
import { readFileSync } from 'node:fs';
import ts from 'typescript';

/**
 * The exported interfaces of a file by name, each with its properties' types as text: one line, single quotes, union members sorted.
 * A property that is not optional shows as `required …`.
 */
export function declaredInterfaces(file: string): Map<string, Map<string, string>> {
  const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest);
  const found = new Map<string, Map<string, string>>();
  for (const statement of source.statements) {
    if (!ts.isInterfaceDeclaration(statement)) continue;
    const properties = new Map<string, string>();
    for (const member of statement.members) {
      if (!ts.isPropertySignature(member) || member.type === undefined) throw new Error(`${statement.name.text}: not a plain property`);
      const parts = ts.isUnionTypeNode(member.type) ? [...member.type.types] : [member.type];
      const text = parts.map((part) => part.getText(source)).sort().join(' | ');
      properties.set(member.name.getText(source), member.questionToken ? text : `required ${text}`);
    }
    found.set(statement.name.text, properties);
  }
  return found;
}
